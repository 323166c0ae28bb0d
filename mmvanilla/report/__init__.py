"""Pictures of what a model gets and of what it gets wrong."""

from .evaluation import Evaluation
from .metric import ReportMetric
from .page import write_page
from .preview import write_preview

__all__ = ['Evaluation', 'ReportMetric', 'write_page', 'write_preview']
