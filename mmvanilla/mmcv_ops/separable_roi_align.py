"""Average RoIAlign as two small matrix products per box.

Bilinear sampling and averaging work on one axis after the other: the P x Q bins of a box are
``wy @ crop @ wx.T``, where ``crop`` (h, w) is the area of the feature map under the box, and ``wy``
(P, h) and ``wx`` (Q, w) hold the weight of each row and column in each bin. Each cell is read once,
not four times per sample. With channels last, the rows of all columns and channels are one product.

Cells outside every sample of a bin have weight 0 in it, so an infinite or nan feature spreads to
the other bins of its row and column.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import NamedTuple

import torch
from torch import Tensor


class RoIGrid(NamedTuple):
    """The sampling grid of R boxes along one axis, in cells of the feature map.

    Attributes:
        start: First edge of each box (R,).
        bin_size: Length of one bin (R,).
        samples: Number of samples in one bin (R,), a whole number of at least 0.
        bins: Number of bins, P.
    """

    start: Tensor
    bin_size: Tensor
    samples: Tensor
    bins: int


class _Box(NamedTuple):
    """The crop (h, w) under a box and the weights of its rows (P, h) and columns (Q, w)."""

    crop: tuple[int, slice, slice]
    wy: Tensor
    wx: Tensor


def roi_grids(
    rois: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[RoIGrid, RoIGrid]:
    """Divide boxes into bins and bins into samples.

    Args:
        rois: Boxes (R, 5) as image index, x1, y1, x2, y2, in pixels of the image.
        aligned_height: Bins along y.
        aligned_width: Bins along x.
        spatial_scale: Cells of the feature map per pixel of the image.
        sampling_ratio: Samples per bin along each axis; 0 for the bin's length in cells, rounded
            up.
        aligned: Put the centre of a cell at + 0.5. The older form puts it at + 0 and widens a box
            to at least one cell.

    Returns:
        The grids along y and x.

    Raises:
        ValueError: If an aligned box on the CPU has a negative or undefined size.
    """
    edges = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    start, size = edges[:, :2], edges[:, 2:] - edges[:, :2]
    if not aligned:
        size = size.clamp(min=1)
    elif not (rois.is_cuda or bool((size >= 0).all())):
        raise ValueError(
            'RoIAlign got a box with x2 < x1, y2 < y1 or nan; it expects none; '
            'clip or drop such boxes first'
        )
    grids = []
    for axis, bins in ((1, aligned_height), (0, aligned_width)):
        # Divide by a tensor: CUDA divides by a number through its rounded reciprocal.
        bin_size = size[:, axis] / torch.full_like(size[:, axis], bins)
        if sampling_ratio > 0:
            samples = torch.full_like(bin_size, sampling_ratio)
        else:
            samples = bin_size.ceil().clamp(min=0)
        grids.append(RoIGrid(start[:, axis], bin_size, samples, bins))
    return grids[0], grids[1]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in the calling thread alone.

    A second thread hardly helps with products this small; on busy cores waiting for it makes them
    10 to 100 times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # The setting is of this thread, but new threads inherit the one made last in any thread.
    restore_default = Thread(target=torch.set_num_threads, args=(threads,))
    restore_default.start()
    restore_default.join()
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
    """Fill ``output`` (R, C, P, Q) with the average of ``features`` (N, C, H, W) in each bin.

    ``images`` (R,) has the image index of each box; ``y`` has P bins and ``x`` has Q.
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
    """Fill ``grad_features``, contiguous and zero at first, from ``grad_output``.

    The shapes are those of ``separable_forward``.
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
    """Return whether the crops hold more cells than the maps (N, H, W, C).

    Then one channels-last copy of the maps is faster than one of each crop.
    """
    return sum(box.wy.size(1) * box.wx.size(1) for box in boxes) > maps[..., 0].numel()


def _channels_last_copy(maps: Tensor) -> Tensor:
    """Copy (N, H, W, C), one image at a time, as PyTorch transposes matrices in blocks."""
    copy = maps.new_empty(maps.shape)
    for target, source in zip(copy, maps, strict=True):
        target.flatten(0, 1).copy_(source.flatten(0, 1))
    return copy


def _boxes(images: Tensor, y: RoIGrid, x: RoIGrid, height: int, width: int) -> list[_Box]:
    axes = zip(images.tolist(), _weights(y, height), _weights(x, width), strict=True)
    return [_Box((image, rows, columns), wy, wx) for image, (rows, wy), (columns, wx) in axes]


def _weights(grid: RoIGrid, length: int) -> list[tuple[slice, Tensor]]:
    """Return the cells under each box and their weights in each bin (P, cells)."""
    per_bin = grid.samples[:, None, None].clamp(min=1)
    index = torch.arange(int(per_bin.max()), device=per_bin.device)
    bins = torch.arange(grid.bins, device=per_bin.device).to(per_bin)
    edges = grid.start[:, None] + bins * grid.bin_size[:, None]
    inside_bin = (index + 0.5).to(per_bin) * grid.bin_size[:, None, None] / per_bin
    position, used = edges[:, :, None] + inside_bin, index < grid.samples[:, None, None]

    # Samples more than one cell outside the map count as 0.
    share = ((position >= -1) & (position <= length) & used) / per_bin
    position = position.clamp(0, length - 1)
    low = position.long()
    high, fraction = (low + 1).clamp(max=length - 1), position - low

    first = low[:, 0, 0]
    stop = torch.maximum((high * used).amax(dim=(1, 2)), first) + 1
    longest = int((stop - first).max())
    cells = (torch.cat([low, high], dim=2) - first[:, None, None]).clamp(max=longest - 1)
    weights = share.new_zeros(len(first), grid.bins, longest)
    weights.scatter_add_(2, cells, torch.cat([share * (1 - fraction), share * fraction], dim=2))
    bounds = zip(first.tolist(), stop.tolist(), strict=True)
    return [(slice(a, b), w[:, : b - a]) for w, (a, b) in zip(weights, bounds, strict=True)]
