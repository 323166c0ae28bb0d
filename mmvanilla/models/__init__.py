"""The backbone, its layers and their fusion; its two ideas as parts for other nets."""

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
