"""Measure speed, size and computation of models side by side."""

from ..deploy.predict import make_predictor
from ..whole_files import writing
from .model import FORMS, Candidate, ModelSpec, ModelUnderTest
from .processes import Conditions, explain, in_turn, take_turns
from .results import Measurement, Row
from .run import measure
from .settings import Settings

__all__ = [
    'FORMS',
    'Candidate',
    'Conditions',
    'Measurement',
    'ModelSpec',
    'ModelUnderTest',
    'Row',
    'Settings',
    'explain',
    'in_turn',
    'make_predictor',
    'measure',
    'take_turns',
    'writing',
]
