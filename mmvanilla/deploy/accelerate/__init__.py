"""Acceleration of a whole model for inference."""

from .accelerate import accelerate

__all__ = ['accelerate']
