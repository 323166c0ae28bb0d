"""Average RoIAlign (He et al., 2017, https://arxiv.org/abs/1703.06870).

It is computed by torchvision's kernel or as matrix products. The products are faster on the CPU for
most boxes (``benchmarks/roi_align.py`` compares the two). On CUDA their gradient is deterministic,
for ``torch.use_deterministic_algorithms(True)``.
"""

from typing import Any

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .common import at_least_float32, only_compiled
from .separable_roi_align import RoIGrid, roi_grids, separable_backward, separable_forward

MAX = 0  # mmcv's pool_mode; 1 is the average

# Fewest samples per box, over all channels, that pay for the fixed cost of matrix products.
_MIN_SAMPLES = 2**12


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    pool_mode: int,
    **geometry: Any,
) -> None:
    """Fill ``output`` (R, C, P, Q) with the average of ``input`` (N, C, H, W) in bins of boxes.

    ``rois`` (R, 5) are image index, x1, y1, x2, y2, in pixels of the image, and ``geometry`` has
    the keywords of ``roi_grids``. The average, ``pool_mode`` 1, does not use ``argmax_y`` and
    ``argmax_x``.

    Raises:
        NotImplementedError: If ``pool_mode`` is 0, the maximum.
        ValueError: If an aligned box on the CPU has a negative or undefined size.
    """
    if pool_mode == MAX:
        raise only_compiled("'roi_align' with pool_mode='max'")
    if output.numel() == 0:
        return
    features, boxes = at_least_float32(input), at_least_float32(rois)
    if grids := _grids_if_faster(boxes, features.size(1), geometry):
        separable_forward(features, boxes[:, 0].long(), *grids, output)
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
    """Fill ``grad_input`` (N, C, H, W), zero at first, from ``grad_output``.

    The other arguments are those of ``roi_align_forward``.
    """
    if grad_output.numel() == 0:
        return
    grad, boxes, total = map(at_least_float32, (grad_output, rois, grad_input))
    if boxes.is_cuda and torch.are_deterministic_algorithms_enabled():
        # torchvision's backward pass adds with atomics, in any order.
        grids: tuple[RoIGrid, RoIGrid] | None = roi_grids(boxes, **geometry)
    else:
        grids = _grids_if_faster(boxes, grad.size(1), geometry)
    if grids:
        separable_backward(grad, boxes[:, 0].long(), *grids, total)
    else:
        sizes = dict(zip(('batch_size', 'channels', 'height', 'width'), total.shape, strict=True))
        total = torch.ops.torchvision._roi_align_backward(
            grad, boxes, **sizes, **_renamed(geometry)
        )
    if total is not grad_input:
        grad_input.copy_(total)


def _renamed(geometry: dict[str, Any]) -> dict[str, Any]:
    """Rename mmcv's ``aligned_height`` and ``aligned_width`` for torchvision."""
    return {name.replace('aligned_', 'pooled_'): value for name, value in geometry.items()}


def _grids_if_faster(
    boxes: Tensor, channels: int, geometry: dict[str, Any]
) -> tuple[RoIGrid, RoIGrid] | None:
    """Return the grids if matrix products beat torchvision's kernel, else None.

    On the CPU they do, with two exceptions: boxes with few samples, and large boxes with a fixed
    number of samples, since the products read every cell under a box.
    """
    if boxes.is_cuda:
        return None
    y, x = roi_grids(boxes, **geometry)
    samples = y.bins * x.bins * float((y.samples * x.samples).mean())
    cells = y.bins * x.bins * float((y.bin_size * x.bin_size).mean())
    faster = samples * channels >= _MIN_SAMPLES and cells <= 4 * samples
    return (y, x) if faster else None
