"""Trained models: accelerated, exported, and used for prediction."""

from .accelerate.accelerate import accelerate
from .accelerate.hook import AccelerateHook
from .show import ShowHook

__all__ = ['AccelerateHook', 'ShowHook', 'accelerate']
