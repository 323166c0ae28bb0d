"""Soft non-maximum suppression (Bodla et al., 2017, https://arxiv.org/abs/1704.04503)."""

import numpy as np
import torch
from torch import Tensor

from .float32 import at_least_float32
from .nms import iou_with

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the score of a box by its overlap with every better one.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2, on the CPU.
        scores: (N,), on the CPU.
        dets: (N, 5), on the CPU; its first K rows receive the boxes kept and their new scores,
            by falling score.
        iou_threshold: IoU from which the naive and linear methods act.
        sigma: Width of the Gaussian method.
        min_score: A box is dropped when its score falls below this.
        method: 0 drops an overlapping box, 1 multiplies its score by 1 - IoU, 2 multiplies
            every score by exp(-IoU^2 / sigma).
        offset: 0, or 1 where a box includes its last pixel and is x2 - x1 + 1 wide.

    Returns:
        Indices (K,) int64 of the boxes kept.
    """
    rows = torch.cat([at_least_float32(boxes), at_least_float32(scores)[:, None]], dim=1).numpy()
    left = np.arange(len(rows))
    kept = []
    while left.size:
        best = _best(rows[left, 4])
        # mmcv swaps the best box to the front, which decides later ties.
        left[[0, best]] = left[[best, 0]]
        first, rest = left[0], left[1:]
        iou = iou_with(rows[first, :4], rows[rest, :4], offset)
        rows[rest, 4] *= _decay(iou, np.float32(iou_threshold), np.float32(sigma), method)
        # Not the same as `>=`: an undefined IoU makes the score nan, and mmcv keeps the box.
        left = _close_gaps(rest, ~(rows[rest, 4] < np.float32(min_score)))
        kept.append(first)
    dets[: len(kept)] = torch.from_numpy(rows[kept])
    return torch.tensor(kept, dtype=torch.int64)


def _best(scores: np.ndarray) -> int:
    """Return the first highest score, as a scan finds it to which nothing exceeds nan."""
    return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))


def _decay(iou: np.ndarray, threshold: np.float32, sigma: np.float32, method: int) -> np.ndarray:
    if method == GAUSSIAN:
        # Through float64, to round as the C library does: numpy's float32 exp can be off by 2 ulp.
        return np.exp((-(iou * iou) / sigma).astype(np.float64)).astype(iou.dtype)
    lowered = 1 - iou if method == LINEAR else np.zeros_like(iou)
    return np.where(iou >= threshold, lowered, np.ones_like(iou))


def _close_gaps(indices: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Drop entries as mmcv's scan does: the last entry moves into each gap it comes upon.

    With K entries kept, the gaps among the first K, in order, therefore receive the kept
    entries of the tail, from the end backwards.
    """
    count = int(keep.sum())
    head = indices[:count].copy()
    head[~keep[:count]] = indices[count:][keep[count:]][::-1]
    return head
