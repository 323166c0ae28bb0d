"""The backbone, its layers and their fusion."""

from .deep_training import DeepTraining
from .fusion import fuse
from .vanillanet import ARCHS, VanillaNet

__all__ = ['ARCHS', 'DeepTraining', 'VanillaNet', 'fuse']
