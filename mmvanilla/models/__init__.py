"""The backbone and its head, their layers and their fusion."""

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..safe_load import safe_loading
from .archs import ARCHS
from .deep_training import DeepTraining
from .reparam import fuse
from .series_activation import SeriesActivation
from .vanillanet import VanillaNet

__all__ = ['ARCHS', 'DeepTraining', 'SeriesActivation', 'VanillaNet', 'fuse', 'safe_loading']


@MODELS.register_module('VanillaNetClsHead')
class _ClsHeadOnDemand:
    """Stand-in for ``cls_head.VanillaNetClsHead``, since importing it needs mmpretrain."""

    def __new__(cls, **kwargs: Any) -> nn.Module:  # type: ignore[misc] # builds the real head
        from .cls_head import VanillaNetClsHead

        return VanillaNetClsHead(**kwargs)
