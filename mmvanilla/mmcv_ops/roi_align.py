"""RoIAlign (He et al., 2017, https://arxiv.org/abs/1703.06870), average and maximum.

The average is computed either by torchvision's kernel or, on the CPU, as matrix products.
``benchmarks/roi_align.py`` compares the two. On CUDA the gradient is computed as matrix products,
too, where ``torch.use_deterministic_algorithms(True)`` asks for it.
"""

from typing import Any

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .float32 import at_least_float32
from .max_roi_align import max_backward, max_forward
from .roi_grid import RoIGrid, roi_grids
from .separable_roi_align import separable_backward, separable_forward

MAX = 0  # mmcv's pool_mode; 1 is the average

# Samples, over all channels, from which a box pays the fixed cost of its matrix products.
_LEAST_SAMPLES = 2**12


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    pool_mode: int,
    **geometry: Any,
) -> None:
    """Fill ``output`` with the features below each bin of each box.

    Args:
        input: Feature map (N, C, H, W).
        rois: Boxes (R, 5) as image index, x1, y1, x2, y2, in pixels of the image.
        output: (R, C, aligned_height, aligned_width).
        argmax_y: For the maximum, of the shape of ``output``, filled with where it was
            taken, in cells; else unused.
        argmax_x: Likewise along W.
        pool_mode: 0 for the maximum, 1 for the average.
        **geometry: The keywords of ``roi_grid.roi_grids``.

    Raises:
        ValueError: If an aligned box on the CPU has a negative or undefined size.
    """
    if output.numel() == 0:
        return
    features, boxes = at_least_float32(input), at_least_float32(rois)
    images = boxes[:, 0].long()
    if pool_mode == MAX:
        results = max_forward(features, images, *roi_grids(boxes, **geometry))
        for target, result in zip((output, argmax_y, argmax_x), results, strict=True):
            target.copy_(result)
    elif grids := _grids_if_faster(boxes, features.size(1), geometry):
        separable_forward(features, images, *grids, output)
    else:
        output.copy_(torch.ops.torchvision.roi_align(features, boxes, **_renamed(geometry)))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    pool_mode: int,
    **geometry: Any,
) -> None:
    """Fill ``grad_input`` (N, C, H, W), zero so far, from ``grad_output``.

    The other arguments are those of ``roi_align_forward``.
    """
    if grad_output.numel() == 0:
        return
    grad, boxes, total = map(at_least_float32, (grad_output, rois, grad_input))
    images = boxes[:, 0].long()
    if pool_mode == MAX:
        where = at_least_float32(argmax_y), at_least_float32(argmax_x)
        max_backward(grad, images, *where, total)
    elif grids := _grids_if_deterministic(boxes, grad.size(1), geometry):
        separable_backward(grad, images, *grids, total)
    else:
        sizes = dict(zip(('batch_size', 'channels', 'height', 'width'), total.shape, strict=True))
        total = torch.ops.torchvision._roi_align_backward(
            grad, boxes, **sizes, **_renamed(geometry)
        )
    if total is not grad_input:
        grad_input.copy_(total)


def _renamed(geometry: dict[str, Any]) -> dict[str, Any]:
    """Return mmcv's ``aligned_height`` and ``aligned_width`` under torchvision's names."""
    return {name.replace('aligned_', 'pooled_'): value for name, value in geometry.items()}


def _grids_if_deterministic(
    boxes: Tensor, channels: int, geometry: dict[str, Any]
) -> tuple[RoIGrid, RoIGrid] | None:
    """Return the grids where only matrix products add in a fixed order, or are faster, else None.

    On CUDA torchvision's backward pass adds with atomics, in any order.
    """
    if boxes.is_cuda and torch.are_deterministic_algorithms_enabled():
        return roi_grids(boxes, **geometry)
    return _grids_if_faster(boxes, channels, geometry)


def _grids_if_faster(
    boxes: Tensor, channels: int, geometry: dict[str, Any]
) -> tuple[RoIGrid, RoIGrid] | None:
    """Return the grids for matrix products where these beat torchvision's kernel, else None.

    They do on the CPU for all but boxes with little to read. The products read every cell below
    a box, so neither must a box be large for the samples that a fixed number per bin takes.
    """
    if boxes.is_cuda:
        return None
    y, x = roi_grids(boxes, **geometry)
    samples = y.bins * x.bins * float((y.samples * x.samples).mean())
    cells = y.bins * x.bins * float((y.bin_size * x.bin_size).mean())
    pays = samples * channels >= _LEAST_SAMPLES and cells <= 4 * samples
    return (y, x) if pays else None
