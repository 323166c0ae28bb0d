"""Distillation: classifiers, detectors and segmentors that learn from a teacher."""

from .config import add_teacher, use_hook
from .distillation import Distillation, distilled_model
from .hook import DistillHook
from .losses import ChannelWiseDivergence, KLDivergence, PKDLoss

__all__ = [
    'ChannelWiseDivergence',
    'DistillHook',
    'Distillation',
    'KLDivergence',
    'PKDLoss',
    'add_teacher',
    'distilled_model',
    'use_hook',
]
