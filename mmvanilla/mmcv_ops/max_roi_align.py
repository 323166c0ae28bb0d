"""RoIAlign that takes the largest sample of a bin in place of their average."""

import torch
from torch import Tensor

from .bin_max import add_to_cells, bin_max, chunks, gather_cells, pick
from .roi_grid import Corners, RoIGrid, corners


def max_forward(
    features: Tensor, images: Tensor, y: RoIGrid, x: RoIGrid
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest sample of each bin and where it was taken.

    Args:
        features: (N, C, H, W).
        images: Image index of each box (R,).
        y: Grid of the R boxes along H, of P bins.
        x: Likewise along W, of Q bins.

    Returns:
        The maxima and their y and x in cells, each (R, C, P, Q). A bin without samples has
        mmcv's lowest value and -1, -1.
    """
    channels = features.size(1)
    y_position, y_used = y.positions()
    x_position, x_used = x.positions()
    per_box = channels * y_position[0].numel() * x_position[0].numel()
    parts = []
    for part in chunks(len(images), per_box):
        values = _sample(features, images[part], y_position[part], x_position[part])
        used = y_used[part, :, None, :, None] & x_used[part, None, :, None, :]
        values.masked_fill_(~used[:, None], -torch.inf)
        maximum, row, column = bin_max(values)
        row = pick(y_position[part, None, :, None], row)
        column = pick(x_position[part, None, None], column)
        parts.append((maximum, row, column))
    maximum, argmax_y, argmax_x = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    # What mmcv's search starts from, which differs between its two devices.
    lowest = torch.finfo(torch.float32).min if features.is_cuda else -10000.0
    found = maximum > lowest
    return maximum.where(found, lowest), argmax_y.where(found, -1), argmax_x.where(found, -1)


def max_backward(
    grad_output: Tensor, images: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_features: Tensor
) -> None:
    """Add ``grad_output`` to the cells of ``grad_features`` around each largest sample.

    ``grad_features`` (N, C, H, W) is contiguous. The other arguments are those that
    ``max_forward`` takes and returns.
    """
    height, width = grad_features.shape[2:]
    y, x = corners(argmax_y, height), corners(argmax_x, width)
    grad = grad_output * (y.inside & x.inside & (argmax_y != -1))
    for row, wy in _ends(y):
        for column, wx in _ends(x):
            add_to_cells(grad_features, images, row, column, grad * wy * wx)


def _sample(features: Tensor, images: Tensor, y_position: Tensor, x_position: Tensor) -> Tensor:
    """Interpolate at positions (R, P, G) and (R, Q, F), giving (R, C, P, Q, G, F)."""
    height, width = features.shape[2:]
    y, x = corners(y_position, height), corners(x_position, width)
    values = (
        gather_cells(features, images, row, column)
        * (wy[:, None, :, None, :, None] * wx[:, None, None, :, None, :])
        for row, wy in _ends(y)
        for column, wx in _ends(x)
    )
    total = next(values)
    for value in values:
        total += value
    inside = y.inside[:, :, None, :, None] & x.inside[:, None, :, None, :]
    return total.masked_fill_(~inside[:, None], 0)


def _ends(axis: Corners) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the two cells of each position with their weights."""
    return (axis.low, 1 - axis.fraction), (axis.high, axis.fraction)
