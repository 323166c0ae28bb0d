"""The backbone and its head, their layers and their fusion; the two ideas as parts for any net."""

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from .archs import ARCHS
from .deep_training import DeepConv, DeepTraining, join_convs, split_convs
from .reparam import fuse
from .series_activation import SeriesActivation
from .vanillanet import VanillaNet
from .weights import safe_loading

__all__ = [
    'ARCHS',
    'DeepConv',
    'DeepTraining',
    'SeriesActivation',
    'VanillaNet',
    'fuse',
    'join_convs',
    'safe_loading',
    'split_convs',
]


@MODELS.register_module('VanillaNetClsHead')
def build_cls_head(**kwargs: Any) -> nn.Module:
    """Build a ``cls_head.VanillaNetClsHead``; only that imports mmpretrain."""
    from .cls_head import VanillaNetClsHead

    return VanillaNetClsHead(**kwargs)
