"""The backbone, its layers and their fusion."""

from .fusion import fuse
from .vanillanet import ARCHS, VanillaNet

__all__ = ['ARCHS', 'VanillaNet', 'fuse']
