"""The backbone and its head, their layers and their fusion; the two ideas as parts for any net."""

from mmengine.registry import MODELS
from torch import nn

from .ablation import PlainNet, TwoIdeas
from .deep_conv import DeepConv, join_convs, split_convs
from .deep_training import DeepTraining
from .fusion import fuse
from .layers import SeriesActivation
from .series import replace_relus
from .vanillanet import ARCHS, VanillaNet

__all__ = [
    'ARCHS',
    'DeepConv',
    'DeepTraining',
    'PlainNet',
    'SeriesActivation',
    'TwoIdeas',
    'VanillaNet',
    'fuse',
    'join_convs',
    'replace_relus',
    'split_convs',
]


@MODELS.register_module('VanillaNetClsHead')
def build_cls_head(**kwargs: object) -> nn.Module:
    """Build a :class:`.head.VanillaNetClsHead`; only that imports mmpretrain."""
    from .head import VanillaNetClsHead

    return VanillaNetClsHead(**kwargs)
