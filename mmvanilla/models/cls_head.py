"""The classification head: trained with two layers, deployed with one.

This module imports mmpretrain, which users of detectors may not have. A config's
``VanillaNetClsHead`` imports it when the head is built.
"""

from collections.abc import Callable
from typing import Any

from mmengine.registry import MODELS
from mmpretrain.models.heads import ClsHead
from torch import Tensor, fx, nn

from ..copies import alias
from ..errors import UserError, require
from ..safe_load import safe_loading
from .archs import check_bool, check_cfg, check_int
from .conv_norm import build_conv, build_norm
from .deep_training import DeepTraining, anneal
from .reparam import children, merge
from .weights import fit_head


@MODELS.register_module(force=True)  # in place of the stand-in
class VanillaNetClsHead(DeepTraining, ClsHead):
    """Global average pooling and two layers with the annealed activation between them.

    Training form: ``cls1`` (pool, dropout, 1x1 convolution, norm), ``deep_training.anneal``,
    ``cls2`` (1x1 convolution). Deploy form: ``cls`` (pool, dropout, 1x1 convolution).

    Args:
        num_classes: Number of classes.
        in_channels: Channels C of the features.
        drop_rate: Probability, from 0 to below 1, of dropping a channel in training.
        norm_cfg: Config of the norm layer; ``eps`` is 1e-6 unless given.
        deploy: Build the deploy form.
        init_cfg: Config of the initialization.
        **kwargs: ``loss``, ``topk`` and ``cal_acc`` of mmpretrain's ``ClsHead``.

    Raises:
        UserError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        drop_rate: float = 0.0,
        norm_cfg: dict = dict(type='BN', eps=1e-6),  # noqa: B006 - read, never written
        deploy: bool = False,
        init_cfg: dict | None = dict(type='Normal', layer='Conv2d', std=0.01),  # noqa: B006
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg, **kwargs)
        check_int('num_classes of the head', num_classes, 1)
        check_int('in_channels of the head', in_channels, 1)
        check_cfg('norm_cfg of the head', norm_cfg)
        check_bool('deploy of the head', deploy)
        fits = isinstance(drop_rate, int | float) and 0 <= drop_rate < 1
        require('drop_rate of the head', drop_rate, fits, 'a number from 0 to below 1')
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.deploy = deploy
        conv = build_conv(in_channels, num_classes)
        first = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(drop_rate), conv)
        if deploy:
            self.cls = first
        else:
            self.cls1 = first.append(build_norm({'eps': 1e-6, **norm_cfg}, num_classes))
            self.cls2 = nn.Sequential(build_conv(num_classes, num_classes))
            self.add_act_learn()

    def init_weights(self) -> None:
        """Initialize by ``init_cfg``; no code in a checkpoint is run."""
        with safe_loading():
            super().init_weights()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        fit_head(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (N, num_classes) of the last level of features, (N, C, H, W)."""
        x = self.pre_logits(feats)
        is_known = not isinstance(x, fx.Proxy)
        if is_known and (x.ndim != 4 or x.shape[1] != self.in_channels):
            raise UserError(
                f'VanillaNetClsHead got features of shape {tuple(x.shape)}, expected '
                f'(N, {self.in_channels}, H, W); it pools by itself, so leave out the neck'
            )
        if self.deploy:
            return self.cls(x).flatten(1)
        return self.cls2(anneal(self.cls1(x), self.slope_for(x))).flatten(1)

    def reparameterize(self, prefix: str = '') -> Callable[[], None]:
        """Compute the one convolution; see ``Reparameterizable``."""
        self.check_act_learn(prefix)
        layers = children(prefix, cls1=self.cls1[2:], cls2=self.cls2)
        cls1 = alias(self.cls1)  # with its hooks
        del cls1[:2]
        fused = merge(layers, nn.Sequential(cls1, self.cls2))

        def switch() -> None:
            cls = self.cls1
            cls[2] = fused
            del cls[3]
            self.become(['cls1', 'cls2'], cls=cls)

        return switch
