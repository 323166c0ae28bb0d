"""The parts of VanillaNet: series activation and stage, each in its training and deploy form.

The module and parameter names are those of the published checkpoints, so that these load as they
are. Reference: Chen et al., VanillaNet: the Power of Minimalism in Deep Learning,
https://arxiv.org/abs/2305.12972, sections 3.1 (deep training) and 3.2 (series activation).
"""

import copy
import math

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import UserError
from ..ops.depthwise_conv import depthwise_conv2d
from .deep_training import deep_training_act
from .reparam import carry_over, chain, fold_conv_norm, fold_norm, set_parameters


def conv_norm(in_channels: int, out_channels: int, norm_cfg: dict, **conv: int) -> nn.Sequential:
    """Build a convolution (with a bias) followed by a norm layer.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_cfg: Config of the norm layer.
        **conv: ``kernel_size`` (default 1), ``stride``, ``padding`` of the convolution.
    """
    return nn.Sequential(
        build_conv(in_channels, out_channels, **conv),
        build_norm(norm_cfg, out_channels),
    )


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a norm layer and try it, since many are for vectors, sequences or volumes.

    Args:
        norm_cfg: Config of the norm layer.
        channels: Channels of (N, C, H, W).

    Raises:
        UserError: If it cannot be built or is not for images.
    """
    try:
        layer = build_norm_layer(norm_cfg, channels)[1]
        tried = copy.deepcopy(layer)
        # A synchronised one trains on GPUs only.
        tried.train(not isinstance(tried, nn.SyncBatchNorm))(torch.zeros(2, channels, 2, 2))
    except Exception as error:  # mmengine's registry, mmcv and the layers have errors of their own
        raise UserError(
            f'norm_cfg is {norm_cfg!r}, of which no norm layer for images of {channels} channels '
            f"can be made ({' '.join(str(error).split())}); use one such as dict(type='BN')"
        ) from error
    return layer


def build_conv(in_channels: int, out_channels: int, kernel_size: int = 1, **conv: int) -> nn.Conv2d:
    """Build a convolution, 1x1 unless said, that keeps the scale of what it gets (Kaiming, fan in).

    So features neither vanish nor grow with depth, also where no norm layer rescales them.
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, **conv)
    nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')
    nn.init.zeros_(layer.bias)
    return layer


@MODELS.register_module()
class SeriesActivation(nn.Module):
    """Series activation: a sum of shifted, scaled ReLUs, i.e. a depthwise convolution after a ReLU.

    Training form: ``norm(depthwise(relu(x)))``; deploy form: ``depthwise(relu(x)) + bias``.
    Input and output have shape (N, C, H, W).

    It is registered, so that layers of mmcv which let choose their activation take it:
    ``ConvModule(64, 128, 3, act_cfg=dict(type='SeriesActivation', channels=128))``. They do not
    tell an activation its channels; the config does.

    Args:
        channels: Number of channels C.
        act_num: Half the width n of the window; the kernel is (2n + 1) x (2n + 1).
        norm_cfg: Config of the norm layer, unused in deploy form.
        deploy: Build the deploy form.
        inplace: Ignored; mmcv's layers say so to every activation.

    Raises:
        UserError: If ``channels`` is not a number of channels, or ``act_num`` is negative.
    """

    def __init__(
        self,
        channels: int | None = None,
        act_num: int = 3,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006 - read, never written
        deploy: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        for name, value, least in (('channels', channels, 1), ('act_num', act_num, 0)):
            if type(value) is not int or value < least:
                raise UserError(
                    f'{name} of SeriesActivation is {value!r}, expected an integer of at least '
                    f"{least}; write act_cfg=dict(type='SeriesActivation', channels=128), with the "
                    "layer's own number of output channels"
                )
        kernel_size = 2 * act_num + 1
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size))
        # Start as a ReLU: random windows would blur what they have not yet learnt to combine.
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.weight.data[..., act_num, act_num] += 1
        if deploy:
            self.bias = nn.Parameter(torch.zeros(channels))
            self.bn = nn.Identity()
        else:
            self.bias = None
            self.bn = build_norm(norm_cfg, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        return self.bn(depthwise_conv2d(F.relu(x), self.weight, self.bias))

    def fuse(self) -> 'SeriesActivation':
        """Return the deploy form: the norm goes into the weight and a bias."""
        if self.bias is not None:
            return self
        with torch.device('meta'):  # no random numbers are drawn, no memory is taken
            fused = SeriesActivation(len(self.weight), self.weight.shape[-1] // 2, {}, deploy=True)
        scale, shift = fold_norm(self.bn)
        weight = self.weight.double() * scale[:, None, None, None]
        set_parameters(fused, self.weight, weight=weight, bias=shift)
        return carry_over(self, fused)


class AdaptivePool(nn.Module):
    """Max-pool (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)), adaptively.

    The ``ada`` variant pools 75 x 75 to 38, 19 and 10; this is how it extends to any size.

    Args:
        stride: Ratio of the input's size to the output's.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W)."""
        return F.adaptive_max_pool2d(x, [math.ceil(side / self.stride) for side in x.shape[-2:]])


def build_pool(stride: int, ada_pool: bool) -> nn.Module:
    """Build what reduces the resolution by ``stride``; at stride 1 that is nothing."""
    if stride == 1:
        return nn.Identity()
    return AdaptivePool(stride) if ada_pool else nn.MaxPool2d(stride)


class Stage(nn.Module):
    """One layer of VanillaNet in training form: two 1x1 convolutions, a pool, a series activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Reduction of the resolution.
        act_num: See :class:`SeriesActivation`.
        norm_cfg: Config of the norm layers.
        ada_pool: Pool adaptively.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        act_num: int,
        norm_cfg: dict,
        ada_pool: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = conv_norm(in_channels, in_channels, norm_cfg)
        self.conv2 = conv_norm(in_channels, out_channels, norm_cfg)
        self.pool = build_pool(stride, ada_pool)
        self.act = SeriesActivation(out_channels, act_num, norm_cfg)

    def forward(self, x: Tensor, act_learn: float = 1.0) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride).

        Args:
            x: The input.
            act_learn: The deep-training weight, 0 (a ReLU between the convolutions) to 1 (nothing).
        """
        x = deep_training_act(self.conv1(x), act_learn)
        return self.act(self.pool(self.conv2(x)))

    def fuse(self) -> 'DeployStage':
        """Return the deploy form, which computes the same in eval mode at ``act_learn`` 1."""
        conv = chain(fold_conv_norm(self.conv1), fold_conv_norm(self.conv2))
        act = self.act.fuse()
        out_channels, in_channels = conv[0].shape[:2]
        with torch.device('meta'):
            fused = DeployStage(in_channels, out_channels, 1, 0, {})
        set_parameters(fused.conv, self.conv2[0].weight, weight=conv[0], bias=conv[1])
        carry_over(self, fused)
        fused.pool, fused.act = self.pool, act
        return fused


class DeployStage(nn.Module):
    """One layer of VanillaNet in deploy form: one 1x1 convolution, a pool, a series activation.

    Takes the arguments of :class:`Stage`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        act_num: int,
        norm_cfg: dict,
        ada_pool: bool = False,
    ) -> None:
        super().__init__()
        self.conv = build_conv(in_channels, out_channels)
        self.pool = build_pool(stride, ada_pool)
        self.act = SeriesActivation(out_channels, act_num, norm_cfg, deploy=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self.act(self.pool(self.conv(x)))
