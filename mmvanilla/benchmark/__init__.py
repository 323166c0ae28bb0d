"""Measurement: how fast models are, how large, and how much they compute, side by side."""

from .run import Measurement, Row, measure
from .settings import Settings
from .subject import FORMS, Candidate

__all__ = ['FORMS', 'Candidate', 'Measurement', 'Row', 'Settings', 'measure']
