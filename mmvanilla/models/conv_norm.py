"""Build convolutions and the norm layers after them."""

from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from torch import nn

from ..errors import UserError, sentence


def conv_norm(in_channels: int, out_channels: int, norm_cfg: dict, **conv: Any) -> nn.Sequential:
    """Build a convolution, see ``build_conv``, and a norm layer after it."""
    return nn.Sequential(
        build_conv(in_channels, out_channels, **conv), build_norm(norm_cfg, out_channels)
    )


def build_conv(in_channels: int, out_channels: int, kernel_size: int = 1, **conv: Any) -> nn.Conv2d:
    """Build a convolution with Kaiming's normal weights (fan in) and a bias of 0.

    Features then keep their scale with depth, also without norm layers.
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, device='meta', **conv)
    layer.weight = nn.Parameter(torch.empty(layer.weight.shape))
    layer.bias = nn.Parameter(torch.zeros(out_channels))
    nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')
    return layer


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a norm layer for (N, channels, H, W).

    A layer like it is tried: many norms are for vectors or sequences.

    Raises:
        UserError: If the config cannot be built or its layer does not take images.
    """
    try:
        norm, tried = (build_norm_layer(norm_cfg, channels)[1] for _ in range(2))
        # Synchronized batch norms train on GPUs only.
        tried.train(not isinstance(tried, nn.SyncBatchNorm))(torch.zeros(2, channels, 2, 2))
    except Exception as error:  # of any type: mmengine, mmcv and the layer raise them
        raise UserError(
            f'norm_cfg is {norm_cfg!r}, expected a norm layer for images of {channels} channels '
            f"({type(error).__name__}: {sentence(error)}); use for example dict(type='BN')"
        ) from error
    return norm
