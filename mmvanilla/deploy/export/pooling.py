"""Adaptive pools made of operators that every format has, for images of any size.

The formats have pools with fixed windows only; adaptive windows depend on the input size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...copies import has_hooks, same_outputs
from ...models.vanillanet import AdaptivePool, Block
from ..accelerate.fast_layers import depthwise


def windows(size: int, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return starts and ends of PyTorch's adaptive windows from ``size`` to ``number``."""
    i = torch.arange(number, device=device)
    return i * size // number, ((i + 1) * size + number - 1) // number


class AdaptiveMean(nn.Module):
    """``nn.AdaptiveAvgPool2d``: averages (N, C, H, W) to (N, C, *output_size)."""

    def __init__(self, output_size: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by averaging matrices of rows and columns."""
        rows, columns = (
            self.matrix(size, number, x)
            for size, number in zip(x.shape[-2:], self.output_size, strict=True)
        )
        return rows @ x @ columns.T

    @staticmethod
    def matrix(size: int, number: int, like: Tensor) -> Tensor:
        """Return the (number, size) matrix that averages the windows."""
        start, end = (side[:, None] for side in windows(size, number, like.device))
        i = torch.arange(size, device=like.device)
        return ((i >= start) & (i < end)).to(like) / (end - start).to(like)


class AdaptiveMax(nn.Module):
    """``AdaptivePool``: (N, C, H, W) to maxima (N, C, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Take the maximum of each window of up to stride + 1 rows, then columns."""
        for axis in (2, 3):
            size = x.shape[axis]
            start, end = windows(size, (size + self.stride - 1) // self.stride, x.device)
            members = [
                x.index_select(axis, torch.minimum(start + j, end - 1))
                for j in range(self.stride + 1)
            ]
            x = torch.stack(members).amax(0)
        return x


def make_exportable(model: nn.Module) -> nn.Module:
    """Replace a fused model's adaptive pools, and move its ReLUs before max-pools, in place.

    A ReLU commutes with a max-pool. Before the pool, runtimes merge it into the convolution, and in
    8 bits the pool then reads bytes. Layers with hooks or subclasses that change outputs stay.
    """
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        window = depthwise(block.act.weight, block.act.bias)
        old, new = (block.pool, block.act), (nn.ReLU(), block.pool, window)
        if same_outputs(nn.Sequential(*old), nn.Sequential(*new), window.in_channels, side=6):
            block.conv, block.act = nn.Sequential(block.conv, nn.ReLU()), window
    for parent in model.modules():
        for name, child in parent.named_children():
            if has_hooks(child):
                continue
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size: Any = child.output_size
                size = (size, size) if isinstance(size, int) else tuple(size)
                setattr(parent, name, AdaptiveMean(size))
            elif isinstance(child, AdaptivePool):
                setattr(parent, name, AdaptiveMax(child.stride))
    return model
