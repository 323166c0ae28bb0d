"""Trained models: accelerated, exported, and used for prediction."""

from .accelerate.accelerate import accelerate
from .accelerate.hook import AccelerateHook
from .draw import Annotator
from .show import ShowHook

__all__ = ['AccelerateHook', 'Annotator', 'ShowHook', 'accelerate']
