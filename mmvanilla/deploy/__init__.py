"""A trained model at work: made fast, exported, predicting."""

from .accelerate.accelerate import accelerate
from .accelerate.hook import AccelerateHook

__all__ = ['AccelerateHook', 'accelerate']
