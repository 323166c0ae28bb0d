"""Acceleration of a whole model for inference: fast layers, precision, memory, CUDA graphs."""

from .accelerate import accelerate

__all__ = ['accelerate']
