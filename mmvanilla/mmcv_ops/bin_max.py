"""The maximum over the cells or samples of each bin, a bounded number of boxes at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Values held at once, 64 MiB in float32, unless a single box has more.
_VALUES_AT_ONCE = 2**24


def chunks(boxes: int, values_per_box: int) -> Iterator[slice]:
    """Divide boxes into runs that keep memory bounded."""
    step = max(1, _VALUES_AT_ONCE // max(1, values_per_box))
    return (slice(start, start + step) for start in range(0, boxes, step))


def gather_cells(features: Tensor, images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Read the cells where given rows and columns cross.

    Args:
        features: (N, C, H, W).
        images: Image index of each box (R,).
        y: Rows (R, P, K) of P bins.
        x: Columns (R, Q, L) of Q bins.

    Returns:
        (R, C, P, Q, K, L).
    """
    rows, columns = y[:, :, None, :, None], x[:, None, :, None, :]
    return features[images[:, None, None, None, None], :, rows, columns].movedim(-1, 1)


def bin_max(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maxima (R, C, P, Q) of values (R, C, P, Q, K, L), and their indices in K and L.

    Among equal values the first counts, row by row.
    """
    maximum, index = values.flatten(4).max(dim=-1)
    columns = values.size(-1)
    return maximum, index // columns, index % columns


def pick(choices: Tensor, index: Tensor) -> Tensor:
    """Return ``choices[..., index]`` (R, C, P, Q), of choices that broadcast to (R, C, P, Q, K)."""
    return choices.expand(*index.shape, -1).gather(-1, index[..., None])[..., 0]


def add_to_cells(grad_features: Tensor, images: Tensor, y: Tensor, x: Tensor, grad: Tensor) -> None:
    """Add ``grad`` to the cells y, x (all three (R, C, P, Q)) of contiguous (N, C, H, W)."""
    channels, height, width = grad_features.shape[1:]
    plane = images[:, None] * channels + torch.arange(channels, device=images.device)
    cell = (plane[:, :, None, None] * height + y) * width + x
    grad_features.view(-1).scatter_add_(0, cell.flatten(), grad.flatten())
