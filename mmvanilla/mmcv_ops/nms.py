"""Greedy non-maximum suppression (NMS)."""

import numpy as np
import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .common import at_least_float32, only_compiled


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Drop every box (x1, y1, x2, y2) that overlaps a better one by more than a threshold.

    The IoU and its threshold are compared in float32, as in mmcv.

    Returns:
        Indices (K,) int64 of the remaining boxes, by falling score.

    Raises:
        NotImplementedError: If ``offset`` is not 0: boxes include their last pixel.
    """
    if offset != 0:
        raise only_compiled(f"'nms' with offset={offset}")
    # The order of equal scores is that of mmcv's sort, which need not be stable.
    order = scores.sort(dim=0, descending=True).indices
    boxes = at_least_float32(boxes)[order]
    threshold = float(np.float32(iou_threshold))
    return order[torch.ops.torchvision.nms(boxes, scores[order].to(boxes), threshold)]


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes and scores (N, 5) on the CPU by the better box that suppresses them.

    Returns:
        One list of indices per group, the best box first; groups by falling score.
    """
    dets = at_least_float32(dets)
    boxes = dets[:, :4].numpy()
    order = dets[:, 4].sort(dim=0, descending=True).indices.numpy()
    groups = []
    while order.size:
        best, rest = order[0], order[1:]
        matched = iou_with(boxes[best], boxes[rest]) >= np.float32(iou_threshold)
        groups.append([int(best), *rest[matched].tolist()])
        order = rest[~matched]
    return groups


def iou_with(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the IoU (N,) of one box (4,) with boxes (N, 4); nan where both have no area."""
    span = boxes[:, 2:] - boxes[:, :2]
    width, height = box[2:] - box[:2]
    inner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inner = np.maximum(inner, 0).prod(axis=1)
    with np.errstate(divide='ignore', invalid='ignore'):
        return inner / (width * height + span.prod(axis=1) - inner)
