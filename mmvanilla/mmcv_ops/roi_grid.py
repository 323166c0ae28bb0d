"""Where RoIAlign samples a feature map, one axis at a time."""

from typing import NamedTuple

import torch
from torch import Tensor


class RoIGrid(NamedTuple):
    """The sampling positions of R boxes along one axis, in cells of the feature map.

    Attributes:
        start: First edge of each box (R,).
        bin_size: Extent of one bin (R,).
        samples: Whole number of samples in one bin (R,), at least 0.
        bins: Number of bins, P.
        fixed: The samples where all bins have as many, else 0.
    """

    start: Tensor
    bin_size: Tensor
    samples: Tensor
    bins: int
    fixed: int

    def positions(self) -> tuple[Tensor, Tensor]:
        """Return positions (R, P, G) and which of them are used (R, 1, G).

        G is the largest number of samples any box has in a bin. Where bins differ in it, the host
        waits for it.
        """
        per_bin = self.samples[:, None, None].clamp(min=1)
        device = self.start.device
        index = torch.arange(self.fixed or int(per_bin.max()), device=device)
        bins = torch.arange(self.bins, device=device).to(self.start)
        edges = self.start[:, None] + bins * self.bin_size[:, None]
        inside_bin = (index + 0.5).to(self.start) * self.bin_size[:, None, None] / per_bin
        return edges[:, :, None] + inside_bin, index < self.samples[:, None, None]


class Corners(NamedTuple):
    """The two cells each position lies between, for linear interpolation.

    Attributes:
        low: Cell at or before the position, int64.
        high: The next cell, or the last one.
        fraction: Weight of ``high``; ``low`` has the rest.
        inside: Whether the position is less than a cell outside the map; else it counts 0.
    """

    low: Tensor
    high: Tensor
    fraction: Tensor
    inside: Tensor


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
        aligned_height: Bins down.
        aligned_width: Bins across.
        spatial_scale: Cells of the feature map per pixel of the image.
        sampling_ratio: Samples per bin along each axis, 0 for one per cell begun.
        aligned: Whether a cell's centre is at + 0.5; the older form has it at + 0 and widens a
            box to at least one cell.

    Returns:
        The grid along y and the grid along x.

    Raises:
        ValueError: If an aligned box on the CPU has a negative or undefined size.
    """
    edges = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    start, size = edges[:, :2], edges[:, 2:] - edges[:, :2]
    if not aligned:
        size = size.clamp(min=1)
    elif not (rois.is_cuda or bool((size >= 0).all())):
        raise ValueError(
            'RoIAlign got a box with x2 < x1, y2 < y1 or nan, but expects none: '
            'clip or drop such boxes first.'
        )
    grids = []
    for axis, bins in ((1, aligned_height), (0, aligned_width)):
        # By a tensor: CUDA divides by a number through its reciprocal, which rounds differently.
        bin_size = size[:, axis] / torch.full_like(size[:, axis], bins)
        fixed = torch.full_like(bin_size, sampling_ratio)
        samples = fixed if sampling_ratio > 0 else bin_size.ceil().clamp(min=0)
        grids.append(RoIGrid(start[:, axis], bin_size, samples, bins, max(sampling_ratio, 0)))
    return grids[0], grids[1]


def corners(position: Tensor, length: int) -> Corners:
    """Return the cells around positions on a map ``length`` cells long, all of one shape."""
    inside = (position >= -1) & (position <= length)
    position = position.clamp(0, length - 1)
    low = position.floor()
    high = (low + 1).clamp(max=length - 1)
    return Corners(low.long(), high.long(), position - low, inside)
