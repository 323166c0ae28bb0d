"""Nets with and without the two ideas of VanillaNet, for ablations (paper, Tables 1 and 2)."""

from itertools import pairwise

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmvanilla import UserError, VanillaNet

from .deep_convs import split_convs
from .replace_relus import replace_relus

SHORTCUTS = (None, 'before_act', 'after_act')


@MODELS.register_module()
class TwoIdeas(BaseModule):
    """A net with deep training, with series activation, with both or with neither.

    Args:
        net: Config of the net, a backbone that returns a tuple of features.
        deep_training: Train each of its convolutions as two, see :class:`DeepConv`; for use with
            ``DeepTrainingHook``.
        series_activation: Replace each ReLU on (N, C, H, W) by a series activation.
        act_num: See :class:`SeriesActivation`.
        norm_cfg: Config of the norms that the ideas add.
        image_size: Size of the images with which the net is traced to find its ReLUs.

    Raises:
        UserError: If an idea cannot be applied to the net.
    """

    def __init__(
        self,
        net: dict,
        deep_training: bool = True,
        series_activation: bool = True,
        act_num: int = 3,
        norm_cfg: dict = dict(type='BN', eps=1e-6),  # noqa: B006 - read, never written
        image_size: int = 224,
    ) -> None:
        super().__init__()
        self.net = MODELS.build(net)
        self.net.init_weights()  # before it is split, which keeps what it computes
        if series_activation:
            self.net = replace_relus(self.net, act_num, norm_cfg, image_size)
        if deep_training:
            split_convs(self.net, norm_cfg)

    def init_weights(self) -> None:
        """Do nothing, since the net was initialised when it was built."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W) to the features of the net."""
        if x.device.type == 'cpu':
            # Depthwise convolutions are several times faster in this layout.
            x = x.contiguous(memory_format=torch.channels_last)
        return self.net(x)


@MODELS.register_module()
class PlainNet(BaseModule):
    """VanillaNet without its ideas: one convolution, a batch norm and a ReLU a layer.

    With both ideas added by :class:`TwoIdeas` it is a VanillaNet.

    Args:
        arch: See :class:`VanillaNet`; not an ``ada`` one.
        shortcut: Add each layer's input before ('before_act') or after its activation
            ('after_act'; paper, Table 2). A shortcut has no weights: it pools as the layer does
            and repeats channels.
        norm_cfg: Config of the norm layers.

    Raises:
        UserError: If the arch or the shortcut does not exist, or a shortcut cannot repeat channels
            because a layer's channels are no multiple of its input's.
    """

    def __init__(
        self,
        arch: str | int | dict = '6',
        shortcut: str | None = None,
        norm_cfg: dict = dict(type='BN', eps=1e-6),  # noqa: B006 - read, never written
    ) -> None:
        super().__init__()
        with torch.device('meta'):  # only to read its arch
            arch = VanillaNet(arch, out_indices=(0,)).arch
        dims, strides = arch['dims'], arch['strides']
        if arch['ada_pool']:
            raise UserError('arch of PlainNet has ada_pool, expected one without; leave it out')
        if shortcut not in SHORTCUTS:
            raise UserError(f'shortcut is {shortcut!r}, expected one of {SHORTCUTS}')
        if shortcut and any(out % dim for dim, out in pairwise(dims)):
            raise UserError(
                f'dims of arch is {dims}, expected each to be a multiple of the one before, '
                'since shortcuts repeat channels; choose such dims or shortcut=None'
            )
        self.stem = conv_norm(3, dims[0], norm_cfg, stride=4)
        self.stem.append(nn.ReLU())
        self.stages = nn.ModuleList(
            PlainStage(*channels, stride, shortcut, norm_cfg)
            for channels, stride in zip(pairwise(dims), strides, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map images (N, 3, H, W) to the last features, (N, dims[-1], H / 32, W / 32)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return (x,)


def conv_norm(
    in_channels: int, out_channels: int, norm_cfg: dict, stride: int = 1
) -> nn.Sequential:
    """Build a convolution without overlapping windows, and a norm layer.

    Its initial weights are drawn as in VanillaNet, with which the tables compare it.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=stride, stride=stride)
    nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, build_norm_layer(norm_cfg, out_channels)[1])


class PlainStage(nn.Module):
    """One layer of :class:`PlainNet`, from (N, C_in, H, W) to (N, C_out, H / stride, W / stride).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Reduction of the resolution.
        shortcut: See :class:`PlainNet`.
        norm_cfg: Config of the norm layer.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shortcut: str | None, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.conv = conv_norm(in_channels, out_channels, norm_cfg)
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.act = nn.ReLU()
        self.shortcut = shortcut
        self.repeats = out_channels // in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        y = self.pool(self.conv(x))
        if self.shortcut is None:
            return self.act(y)
        x = self.pool(x).repeat(1, self.repeats, 1, 1)
        return self.act(y + x) if self.shortcut == 'before_act' else self.act(y) + x
