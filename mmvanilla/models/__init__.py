"""The backbone and its head, their layers and their fusion; the two ideas as parts for any net."""

from mmengine.registry import MODELS
from torch import nn

from .deep_conv import DeepConv, join_convs, split_convs
from .deep_training import DeepTraining
from .layers import SeriesActivation
from .reparam import fuse
from .series import replace_relus
from .vanillanet import ARCHS, VanillaNet
from .weights import safe_loading

__all__ = [
    'ARCHS',
    'DeepConv',
    'DeepTraining',
    'SeriesActivation',
    'VanillaNet',
    'fuse',
    'join_convs',
    'replace_relus',
    'safe_loading',
    'split_convs',
]


@MODELS.register_module('VanillaNetClsHead')
def build_cls_head(**kwargs: object) -> nn.Module:
    """Build a :class:`.cls_head.VanillaNetClsHead`; only that imports mmpretrain."""
    from .cls_head import VanillaNetClsHead

    return VanillaNetClsHead(**kwargs)
