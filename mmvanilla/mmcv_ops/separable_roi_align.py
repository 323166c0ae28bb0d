"""Average RoIAlign as two small matrix products per box.

Bilinear sampling and averaging both work on one axis after the other, so that the P x Q bins of
a box are ``wy @ crop @ wx.T``: ``crop`` (h, w) is the part of the feature map below the box, and
``wy`` (P, h) and ``wx`` (Q, w) say how much each row and column counts in each bin. A cell is
then read once, not four times for every sample around it. With channels last, the rows of all
columns and channels are a single product.

Cells outside every sample of a bin count 0 in it, so an infinite or nan feature spreads to the
other bins of its row and column.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .roi_grid import RoIGrid, corners


class _Box(NamedTuple):
    """The crop (h, w) below a box and the weights of its rows (P, h) and columns (Q, w)."""

    crop: tuple[int, slice, slice]
    wy: Tensor
    wx: Tensor


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in the calling thread alone.

    Products this small gain little from a second thread, and where other processes keep the
    cores busy, waiting for it makes each of them a hundred times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
@torch.autocast('cpu', enabled=False)
@torch.autocast('cuda', enabled=False)
def separable_forward(
    features: Tensor, images: Tensor, y: RoIGrid, x: RoIGrid, output: Tensor
) -> None:
    """Fill ``output`` with the average of the features below every bin.

    Args:
        features: (N, C, H, W).
        images: Image index of each box (R,).
        y: Grid of the R boxes along H, P bins.
        x: Grid of the R boxes along W, Q bins.
        output: (R, C, P, Q).
    """
    channels, height, width = features.shape[1:]
    boxes = _boxes(images, y, x, height, width)
    maps = features.permute(0, 2, 3, 1)
    if maps.stride(3) != 1 and _cover_maps(boxes, maps):
        maps = _channels_last_copy(maps)
    for bins, (crop, wy, wx) in zip(output, boxes, strict=True):
        by_row = (wy @ maps[crop].flatten(1)).view(y.bins, -1, channels)
        bins.copy_(torch.bmm(wx.expand(y.bins, -1, -1), by_row).permute(2, 0, 1))


@_one_thread()
@torch.autocast('cpu', enabled=False)
@torch.autocast('cuda', enabled=False)
def separable_backward(
    grad_output: Tensor, images: Tensor, y: RoIGrid, x: RoIGrid, grad_features: Tensor
) -> None:
    """Fill ``grad_features`` (N, C, H, W), contiguous and zero so far, with its gradient.

    ``grad_output`` is (R, C, P, Q); the other arguments are those of ``separable_forward``.
    """
    channels, height, width = grad_features.shape[1:]
    boxes = _boxes(images, y, x, height, width)
    maps = grad_features.permute(0, 2, 3, 1)
    buffered = _cover_maps(boxes, maps)
    if buffered:
        maps = maps.new_zeros(maps.shape)
    bins_last = grad_output.permute(0, 2, 3, 1).contiguous()
    for bins, (crop, wy, wx) in zip(bins_last, boxes, strict=True):
        by_row = (wy.t() @ bins.flatten(1)).view(-1, x.bins, channels)
        maps[crop].add_(torch.bmm(wx.t().expand(len(by_row), -1, -1), by_row))
    if buffered:
        for target, source in zip(grad_features, maps, strict=True):
            target.flatten(1).copy_(source.flatten(0, 1).t())


def _cover_maps(boxes: list[_Box], maps: Tensor) -> bool:
    """Whether all crops together are larger than the maps (N, H, W, C).

    Then it is faster to bring the maps into channels-last order once than every crop.
    """
    return sum(box.wy.size(1) * box.wx.size(1) for box in boxes) > maps[..., 0].numel()


def _channels_last_copy(maps: Tensor) -> Tensor:
    """Return (N, H, W, C) contiguously, by the plain transposition PyTorch does in blocks."""
    copy = maps.new_empty(maps.shape)
    for target, source in zip(copy, maps, strict=True):
        target.flatten(0, 1).copy_(source.flatten(0, 1))
    return copy


def _boxes(images: Tensor, y: RoIGrid, x: RoIGrid, height: int, width: int) -> list[_Box]:
    axes = zip(images.tolist(), _weights(y, height), _weights(x, width), strict=True)
    return [_Box((image, rows, columns), wy, wx) for image, (rows, wy), (columns, wx) in axes]


def _weights(grid: RoIGrid, length: int) -> list[tuple[slice, Tensor]]:
    """Return for each box the cells it covers and how much each counts in each bin (P, cells)."""
    position, used = grid.positions()
    low, high, fraction, inside = corners(position, length)
    share = (inside & used) / grid.samples[:, None, None].clamp(min=1)
    first = low[:, 0, 0]
    stop = torch.maximum((high * used).amax(dim=(1, 2)), first) + 1
    longest = int((stop - first).max())
    cells = (torch.cat([low, high], dim=2) - first[:, None, None]).clamp(max=longest - 1)
    weights = share.new_zeros(len(first), grid.bins, longest)
    weights.scatter_add_(2, cells, torch.cat([share * (1 - fraction), share * fraction], dim=2))
    bounds = zip(first.tolist(), stop.tolist(), strict=True)
    return [(slice(a, b), w[:, : b - a]) for w, (a, b) in zip(weights, bounds, strict=True)]
