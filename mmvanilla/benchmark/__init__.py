"""Measurement: how fast models are, how large, and how much they compute, side by side."""

from ..deploy.files import writing
from ..deploy.predict import make_predictor
from .processes import Conditions, explain, in_turn, take_turns
from .run import Measurement, Row, measure
from .settings import Settings
from .subject import FORMS, Candidate

__all__ = [
    'FORMS',
    'Candidate',
    'Conditions',
    'Measurement',
    'Row',
    'Settings',
    'explain',
    'in_turn',
    'make_predictor',
    'measure',
    'take_turns',
    'writing',
]
