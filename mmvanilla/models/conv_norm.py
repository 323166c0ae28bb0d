"""Build and initialize convolutions and the norm layers after them."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..errors import UserError, sentence

_TRIED: set[tuple[str, int]] = set()


def conv_norm(in_channels: int, out_channels: int, norm_cfg: dict, **conv: Any) -> nn.Sequential:
    """Build a convolution, see ``build_conv``, and a norm layer after it."""
    return nn.Sequential(
        build_conv(in_channels, out_channels, **conv), build_norm(norm_cfg, out_channels)
    )


def build_conv(in_channels: int, out_channels: int, kernel_size: int = 1, **conv: Any) -> nn.Conv2d:
    """Build a convolution with a bias and empty parameters, see ``initialize``."""
    with torch.device('meta'):  # draw no weights that are not used
        layer = nn.Conv2d(in_channels, out_channels, kernel_size, **conv)
    layer.weight = nn.Parameter(torch.empty(layer.weight.shape))
    layer.bias = nn.Parameter(torch.empty(out_channels))
    return layer


@torch.no_grad()
def initialize(convs: Iterable[nn.Conv2d]) -> None:
    """Draw Kaiming's normal weights (fan in) and set biases to 0.

    Features then keep their scale with depth, also without norm layers. Most of the time to build a
    net goes into drawing 100 million numbers, so all cores share the work. Each convolution has its
    own generator, seeded by torch's.
    """
    convs = [conv for conv in convs if conv.bias is not None]  # a norm may have convs without bias
    for conv in convs:
        nn.init.zeros_(conv.bias)
    weights = [conv.weight.detach() for conv in convs]
    if any(type(w) is not Tensor or w.device.type != 'cpu' or w.is_inference() for w in weights):
        for weight in weights:  # generators belong to a device, modes to a thread
            nn.init.kaiming_normal_(weight, nonlinearity='relu')
        return
    seeds = torch.randint(2**63 - 1, (len(weights),), device='cpu').tolist()

    def draw(weight: Tensor, seed: int) -> None:
        std = (2 / weight[0].numel()) ** 0.5
        weight.normal_(0, std, generator=torch.Generator().manual_seed(seed))

    largest_first = sorted(zip(weights, seeds, strict=True), key=lambda pair: -pair[0].numel())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, *zip(*largest_first, strict=True)))


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a norm layer for (N, channels, H, W).

    The first layer of each config and width is tried: many norms are for vectors or sequences.

    Raises:
        UserError: If the config cannot be built or its layer does not take images.
    """
    try:
        if (repr(norm_cfg), channels) not in _TRIED:
            tried = build_norm_layer(norm_cfg, channels)[1]
            # Synchronized batch norms train on GPUs only.
            tried.train(not isinstance(tried, nn.SyncBatchNorm))(torch.zeros(2, channels, 2, 2))
            _TRIED.add((repr(norm_cfg), channels))
        return build_norm_layer(norm_cfg, channels)[1]
    except Exception as error:  # of any type: mmengine, mmcv and the layer raise them
        raise UserError(
            f'norm_cfg is {norm_cfg!r}, expected a norm layer for images of {channels} channels '
            f"({type(error).__name__}: {sentence(error)}); use for example dict(type='BN')"
        ) from error
