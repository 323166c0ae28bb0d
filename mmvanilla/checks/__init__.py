"""Look at what a library made of a config, and compare what meets: data, models and files."""

from .account import Account, account
from .findings import Finding, report
from .items import Items, seed_all

__all__ = ['Account', 'Finding', 'Items', 'account', 'report', 'seed_all']
