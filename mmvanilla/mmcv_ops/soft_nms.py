"""Soft non-maximum suppression (Bodla et al., 2017, https://arxiv.org/abs/1704.04503)."""

import numpy as np
import torch
from torch import Tensor

from .common import at_least_float32, only_compiled
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
    """Lower the score of each box by its overlap with every better one.

    Methods 0 (naive) and 1 (linear) multiply the scores of boxes with an IoU of at least
    ``iou_threshold`` by 0 and 1 - IoU, method 2 (Gaussian) every score by exp(-IoU^2 / sigma).
    The tensors are on the CPU.

    Returns:
        Indices (K,) int64 of the boxes with a score of at least ``min_score``. The first K rows of
        ``dets`` (N, 5) receive these boxes and their new scores, by falling score.

    Raises:
        NotImplementedError: If ``offset`` is not 0.
    """
    if offset != 0:
        raise only_compiled(f"'soft_nms' with offset={offset}")
    rows = torch.cat([at_least_float32(boxes), at_least_float32(scores)[:, None]], dim=1).numpy()
    left = np.arange(len(rows))
    kept = []
    while left.size:
        best = _best(rows[left, 4])
        # mmcv swaps the best box to the front, which decides later ties.
        left[[0, best]] = left[[best, 0]]
        first, rest = left[0], left[1:]
        iou = iou_with(rows[first, :4], rows[rest, :4])
        rows[rest, 4] *= _decay(iou, np.float32(iou_threshold), np.float32(sigma), method)
        # Not `>=`: an undefined IoU makes the score nan, and mmcv keeps that box.
        left = _close_gaps(rest, ~(rows[rest, 4] < np.float32(min_score)))
        kept.append(first)
    dets[: len(kept)] = torch.from_numpy(rows[kept])
    return torch.tensor(kept, dtype=torch.int64)


def _best(scores: np.ndarray) -> int:
    """Return the index of the first highest score; as in a scan, nothing exceeds a first nan."""
    return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))


def _decay(iou: np.ndarray, threshold: np.float32, sigma: np.float32, method: int) -> np.ndarray:
    if method == GAUSSIAN:
        # Round as the C library does: numpy's float32 exp can be off by 2 ulp.
        return np.exp((-(iou * iou) / sigma).astype(np.float64)).astype(iou.dtype)
    lowered = 1 - iou if method == LINEAR else np.zeros_like(iou)
    return np.where(iou >= threshold, lowered, np.ones_like(iou))


def _close_gaps(indices: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Drop entries in mmcv's order: the last entry moves into each gap.

    With K entries to keep, the gaps among the first K receive the others, from the end backwards.
    """
    count = int(keep.sum())
    head = indices[:count].copy()
    head[~keep[:count]] = indices[count:][keep[count:]][::-1]
    return head
