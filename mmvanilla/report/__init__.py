"""A page that shows what a model gets wrong."""

from .evaluation import Evaluation
from .metric import ReportMetric
from .page import write_page

__all__ = ['Evaluation', 'ReportMetric', 'write_page']
