"""RoIPool (Girshick, 2015, https://arxiv.org/abs/1504.08083) as mmcv defines it.

Unlike torchvision's, the edges of boxes and bins are not rounded to cells: a bin takes every
cell it touches, and a box ends at its last pixel plus 1.
"""

import torch
from torch import Tensor

from .bin_max import add_to_cells, bin_max, chunks, gather_cells, pick
from .float32 import at_least_float32


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` with the largest feature each bin touches, 0 where it touches none.

    Args:
        input: As in ``roi_align.roi_align_forward``.
        rois: Likewise.
        output: (R, C, pooled_height, pooled_width).
        argmax: int32 of the shape of ``output``, filled with the cell y * W + x of each
            maximum, -1 for none.
        pooled_height: Bins down.
        pooled_width: Bins across.
        spatial_scale: Cells of the feature map per pixel of the image.
    """
    if output.numel() == 0:
        return
    features, boxes = at_least_float32(input), at_least_float32(rois)
    images = boxes[:, 0].long()
    height, width = features.shape[2:]
    y, y_filled = _bin_cells(boxes[:, 2], boxes[:, 4], spatial_scale, pooled_height, height)
    x, x_filled = _bin_cells(boxes[:, 1], boxes[:, 3], spatial_scale, pooled_width, width)
    for part in chunks(len(boxes), features.size(1) * y[0].numel() * x[0].numel()):
        values = gather_cells(features, images[part], y[part], x[part])
        maximum, row, column = bin_max(values)
        cell_y = pick(y[part, None, :, None], row)
        cell_x = pick(x[part, None, None], column)
        filled = (y_filled[part, :, None] & x_filled[part, None, :])[:, None]
        output[part] = maximum.where(filled, 0)
        argmax[part] = (cell_y * width + cell_x).where(filled, -1).int()


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **geometry: float
) -> None:
    """Add ``grad_output`` to the cells of ``grad_input`` (N, C, H, W) that were the maxima.

    The other arguments are those of ``roi_pool_forward``; the geometry is not needed again.
    """
    if grad_output.numel() == 0:
        return
    total = at_least_float32(grad_input)
    width = grad_input.size(3)
    cell = argmax.long().clamp(min=0)
    grad = at_least_float32(grad_output) * (argmax >= 0)
    add_to_cells(total, at_least_float32(rois)[:, 0].long(), cell // width, cell % width, grad)
    if total is not grad_input:
        grad_input.copy_(total)


def _bin_cells(
    first: Tensor, last: Tensor, spatial_scale: float, bins: int, length: int
) -> tuple[Tensor, Tensor]:
    """Return the cells (R, bins, K) each bin touches along one axis, and which touch any.

    K is the largest number a bin touches; smaller bins repeat their last cell.
    """
    start, end = first * spatial_scale, (last + 1) * spatial_scale
    size = (end - start)[:, None] / torch.full_like(start, bins)[:, None]
    index = torch.arange(bins + 1, device=first.device).to(first)
    edges = index * size + start[:, None]
    low = edges[:, :-1].floor().clamp(0, length).long()
    high = edges[:, 1:].ceil().clamp(0, length).long()
    reach = torch.arange(max(1, int((high - low).max())), device=first.device)
    cells = torch.minimum(low[:, :, None] + reach, high[:, :, None] - 1)
    return cells.clamp(0, length - 1), (high > low) & (end > start)[:, None]
