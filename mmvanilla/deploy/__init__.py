"""A trained model at work: made fast, exported, predicting."""

from .accelerate.accelerate import accelerate
from .accelerate.hook import AccelerateHook
from .show import ShowHook

__all__ = ['AccelerateHook', 'ShowHook', 'accelerate']
