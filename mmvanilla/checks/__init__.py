"""Look at what a library made of a config, and compare what meets: data, models and files."""

from .account import Account, account
from .documents import noted_json
from .findings import Finding, report
from .items import Items, seed_all
from .record import (
    Record,
    compare,
    compare_evaluator,
    record_of_checkpoint,
    record_of_config,
    record_of_dataset,
    record_of_evaluator,
    record_of_exported,
)

__all__ = [
    'Account',
    'Finding',
    'Items',
    'Record',
    'account',
    'compare',
    'compare_evaluator',
    'noted_json',
    'record_of_checkpoint',
    'record_of_config',
    'record_of_dataset',
    'record_of_evaluator',
    'record_of_exported',
    'report',
    'seed_all',
]
