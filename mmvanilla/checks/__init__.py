"""Look at what a library made of a config, and compare what meets: data, models and files."""

from .findings import Finding, report

__all__ = ['Finding', 'report']
