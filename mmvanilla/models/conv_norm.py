"""Convolutions and the norm layers after them: built, tried and initialised."""

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
    """Build what ``build_conv`` builds, followed by a norm layer."""
    return nn.Sequential(
        build_conv(in_channels, out_channels, **conv), build_norm(norm_cfg, out_channels)
    )


def build_conv(in_channels: int, out_channels: int, kernel_size: int = 1, **conv: Any) -> nn.Conv2d:
    """Build a convolution with a bias, 1x1 unless said; ``initialize`` fills its parameters."""
    with torch.device('meta'):  # where drawing the first weights costs nothing
        layer = nn.Conv2d(in_channels, out_channels, kernel_size, **conv)
    layer.weight = nn.Parameter(torch.empty(layer.weight.shape))
    layer.bias = nn.Parameter(torch.empty(out_channels))
    return layer


@torch.no_grad()
def initialize(convs: Iterable[nn.Conv2d]) -> None:
    """Draw weights that keep the scale of what they get (Kaiming's normal, fan in); biases are 0.

    So features neither vanish nor grow with depth, also where no norm layer rescales them. Drawing
    100 million numbers is most of building a net, so every core draws for other convolutions, each
    from a generator of its own; all depends on torch's seed alone.
    """
    convs = [conv for conv in convs if conv.bias is not None]  # those of a norm may have none
    for conv in convs:
        nn.init.zeros_(conv.bias)
    weights = [conv.weight.detach() for conv in convs]
    if any(type(w) is not Tensor or w.device.type != 'cpu' or w.is_inference() for w in weights):
        for weight in weights:  # generators belong to a device, and modes to a thread
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
    """Build a norm layer for (N, channels, H, W), or raise UserError if that is impossible.

    Many are for vectors, sequences or volumes, so the first of a kind is tried.
    """
    try:
        if (repr(norm_cfg), channels) not in _TRIED:
            tried = build_norm_layer(norm_cfg, channels)[1]
            # A synchronised one trains on GPUs only.
            tried.train(not isinstance(tried, nn.SyncBatchNorm))(torch.zeros(2, channels, 2, 2))
            _TRIED.add((repr(norm_cfg), channels))
        return build_norm_layer(norm_cfg, channels)[1]
    except Exception as error:  # mmengine's registry, mmcv and the layers have errors of their own
        raise UserError(
            f'norm_cfg is {norm_cfg!r}, of which no norm layer for images of {channels} channels '
            f'can be made ({type(error).__name__}: {sentence(error)}); use one such as '
            "dict(type='BN')"
        ) from error
