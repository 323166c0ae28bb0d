"""Distillation: classifiers, detectors and segmentors that learn from a teacher."""

from .config import add_teacher, use_hook
from .distillation import Distillation, distilled_model
from .losses import ChannelWiseDivergence, KLDivergence, PKDLoss

__all__ = [
    'ChannelWiseDivergence',
    'Distillation',
    'KLDivergence',
    'PKDLoss',
    'add_teacher',
    'distilled_model',
    'use_hook',
]
