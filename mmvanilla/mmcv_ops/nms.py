"""Greedy non-maximum suppression."""

from collections.abc import Callable

import numpy as np
import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .float32 import at_least_float32


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Drop every box that overlaps a better one by more than a threshold.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: A box goes when its IoU with a kept one exceeds this, compared in
            float32 as mmcv does.
        offset: 0, or 1 where a box includes its last pixel and is x2 - x1 + 1 wide.

    Returns:
        Indices (K,) int64 of the boxes kept, by falling score.
    """
    # The order of equal scores is that of mmcv's sort, which need not be a stable one.
    order = scores.sort(dim=0, descending=True).indices
    boxes = at_least_float32(boxes)
    threshold = np.float32(iou_threshold)
    if offset == 0:
        kept = torch.ops.torchvision.nms(boxes[order], scores[order].to(boxes), float(threshold))
        return order[kept]
    # Widening the boxes by 1 for torchvision would round differently from mmcv.
    arrays = boxes.numpy(force=True), order.numpy(force=True)
    groups = _greedy_groups(*arrays, lambda iou: iou > threshold, offset)
    return order.new_tensor([group[0] for group in groups])


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group every box with the better one that suppresses it.

    Args:
        dets: (N, 5) as x1, y1, x2, y2, score, on the CPU.
        iou_threshold: A box joins the group of the first kept box whose IoU with it reaches
            this, compared in float32.

    Returns:
        One list of indices per kept box, by falling score, its own index first.
    """
    dets = at_least_float32(dets)
    order = dets[:, 4].sort(dim=0, descending=True).indices
    threshold = np.float32(iou_threshold)
    return _greedy_groups(dets[:, :4].numpy(), order.numpy(), lambda iou: iou >= threshold)


def iou_with(box: np.ndarray, boxes: np.ndarray, offset: int = 0) -> np.ndarray:
    """Return the IoU (N,) of one box (4,) with boxes (N, 4); nan where both have no area."""
    span = boxes[:, 2:] - boxes[:, :2] + offset
    width, height = box[2:] - box[:2] + offset
    inner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]) + offset
    inner = np.maximum(inner, 0).prod(axis=1)
    with np.errstate(divide='ignore', invalid='ignore'):
        return inner / (width * height + span.prod(axis=1) - inner)


def _greedy_groups(
    boxes: np.ndarray,
    order: np.ndarray,
    suppressed: Callable[[np.ndarray], np.ndarray],
    offset: int = 0,
) -> list[list[int]]:
    """Take the best box left and all it suppresses, until none is left."""
    groups = []
    while order.size:
        best, rest = order[0], order[1:]
        gone = suppressed(iou_with(boxes[best], boxes[rest], offset))
        groups.append([int(best), *rest[gone].tolist()])
        order = rest[~gone]
    return groups
