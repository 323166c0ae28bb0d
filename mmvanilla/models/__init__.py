"""The backbone, the classification head, their layers and their fusion."""

from mmengine.registry import MODELS
from torch import nn

from .deep_training import DeepTraining
from .fusion import fuse
from .vanillanet import ARCHS, VanillaNet

__all__ = ['ARCHS', 'DeepTraining', 'VanillaNet', 'fuse']


@MODELS.register_module('VanillaNetClsHead')
def build_cls_head(**kwargs: object) -> nn.Module:
    """Build a :class:`.head.VanillaNetClsHead`; only that imports mmpretrain."""
    from .head import VanillaNetClsHead

    return VanillaNetClsHead(**kwargs)
