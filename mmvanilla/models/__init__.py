"""The backbone and its layers."""

from .vanillanet import ARCHS, VanillaNet

__all__ = ['ARCHS', 'VanillaNet']
