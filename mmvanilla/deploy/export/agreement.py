"""Compare the outputs of an exported model with PyTorch."""

from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from .limits import Limits

# Tolerances: relative error of features, difference of scores, IoU of boxes and masks, share of
# pixels with the same label.
TOLERANCE, SCORES, BOXES, MASKS, PIXELS = 1e-3, 1e-3, 0.99, 0.98, 0.999
PLACE = 0.05  # pixels; boxes this near are the same, since boxes without area have no IoU
SUPPRESSED = 1e-4  # tolerance of an IoU at the suppression threshold

MMDET = Limits()

Outputs = dict[str, np.ndarray]


class Agreement(NamedTuple):
    """Whether all outputs are within the tolerances, and a sentence with the figures."""

    agrees: bool
    text: str


def compare(found: Outputs, expected: Outputs, limits: Limits = MMDET) -> Agreement:
    """Compare the outputs of one image by name.

    Args:
        found: Outputs of the exported model, with pasted masks.
        expected: Outputs of the model in PyTorch.
        limits: Limits of a detector's boxes, ``limits`` of an ``ImageFunction``.
    """
    if found.keys() != expected.keys():
        return Agreement(False, f'outputs {list(found)}, expected {list(expected)}')
    boxes = 'boxes' in expected
    for name in expected:
        shape, wanted = found[name].shape, expected[name].shape
        if shape != ((len(found['boxes']), *wanted[1:]) if boxes else wanted):
            return Agreement(False, f'{name} of shape {shape}, expected {wanted}')
        for which, values in (('found', found[name]), ('expected', expected[name])):
            if not np.isfinite(values).all():
                return Agreement(False, f'{name} with nan or infinity {which}')
    if boxes:
        return compare_detections(found, expected, limits)
    if 'label_map' in expected:
        same = float((found['label_map'] == expected['label_map']).mean())
        return Agreement(same >= PIXELS, f'{same:.3%} of the pixels with the same label')
    worst = max(relative_error(found[name], expected[name]) for name in expected)
    return Agreement(worst <= TOLERANCE, f'relative error {worst:.1e}')


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the L2 norm of the difference divided by that of ``expected``."""
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    return float(difference / max(np.linalg.norm(expected), 1e-12))


def compare_detections(found: Outputs, expected: Outputs, limits: Limits) -> Agreement:
    """Match boxes of the same label one to one and compare the pairs.

    A box may be unmatched only if a small difference decides whether it is returned. At least half
    must be matched, unless both lists are full, when many scores may be equal.
    """
    pairs, ious = match(found, expected)
    scores = max((abs(expected['scores'][i] - found['scores'][j]) for i, j in pairs), default=0.0)
    text = (
        f'{len(pairs)} of {len(expected["boxes"])} boxes matched by {len(found["boxes"])}, '
        f'IoU {min(ious, default=1):.4f}, scores within {scores:.1e}'
    )
    fewest, most = sorted(len(o['boxes']) for o in (found, expected))
    agrees = bool(
        scores <= SCORES
        and (2 * len(pairs) >= most or fewest >= limits.max_per_img)
        and len(found['boxes']) <= max(limits.max_per_img, len(expected['boxes']))
        and unmatched_at_edge(found, expected, pairs, limits)
    )
    if not most:
        text = 'no boxes in either, so little is compared'
    elif 'masks' in expected:
        masks = [mask_iou(expected['masks'][i] > 0.5, found['masks'][j] > 0.5) for i, j in pairs]
        text += f', mask IoU {min(masks, default=1):.4f}'
        agrees = agrees and min(masks, default=1) > MASKS
    return Agreement(agrees, text)


def match(found: Outputs, expected: Outputs) -> tuple[list[tuple[int, int]], list[float]]:
    """Pair expected boxes, best first, with found boxes of the nearest score in the same place.

    Return the indices (expected, found) and the IoU of each pair.
    """
    ious = overlaps(expected, found)
    places = abs(expected['boxes'][:, None] - found['boxes'][None]).max(2, initial=0)
    same = (ious > BOXES) | (places <= PLACE)
    same &= expected['labels'][:, None] == found['labels'][None]
    distances = abs(expected['scores'][:, None].astype(np.float64) - found['scores'][None])
    distances[~same] = np.inf
    pairs = []
    for i in np.argsort(-expected['scores'], kind='stable').tolist():
        # Among equal scores the nearest place wins.
        j = int(np.lexsort((places[i], distances[i]))[0]) if len(places[i]) else -1
        if j >= 0 and np.isfinite(distances[i, j]):
            pairs.append((i, j))
            distances[:, j] = np.inf
    return pairs, [float(ious[i, j]) if places[i, j] > PLACE else 1.0 for i, j in pairs]


def overlaps(first: Outputs, second: Outputs) -> np.ndarray:
    """Return the IoU (K, L) of two lists of boxes; 0 for boxes without area."""
    boxes = (torch.from_numpy(o['boxes'].astype(np.float64)) for o in (first, second))
    return np.nan_to_num(box_iou(*boxes).numpy())


def unmatched_at_edge(
    found: Outputs, expected: Outputs, pairs: list[tuple[int, int]], limits: Limits
) -> bool:
    """Return whether a small difference explains every unmatched box.

    It may decide at the score threshold, at the lowest score of a full list, and at the suppression
    threshold, where a box may go and a box that it suppressed may come.
    """
    lists = (expected, found)
    unmatched = [np.ones(len(o['boxes']), dtype=bool) for o in lists]
    for pair in pairs:
        for flags, index in zip(unmatched, pair, strict=True):
            flags[index] = False
    reasons = [edges(own, other, limits) for own, other in (lists, lists[::-1])]
    for k in (0, 1):
        at_edge, barely, suppressed = reasons[k]
        gone = unmatched[1 - k] & reasons[1 - k][1]
        explained = at_edge | barely | (suppressed & gone[None]).any(1)
        if not explained[unmatched[k]].all():
            return False
    return True


def edges(own: Outputs, other: Outputs, limits: Limits) -> tuple[np.ndarray, ...]:
    """Return why boxes of one list may be missing in the other.

    Return which have a score at the edge, (K,); which are at the suppression threshold with a
    better box of the other list, (K,); and which better boxes are above it, (K, L).
    """
    at_edge: np.ndarray = abs(own['scores'] - limits.score_thr) <= SCORES
    if len(other['scores']) >= limits.max_per_img:
        at_edge |= own['scores'] <= other['scores'].min() + SCORES
    better = other['scores'][None] >= own['scores'][:, None] - SCORES
    if not limits.class_agnostic:
        better &= own['labels'][:, None] == other['labels'][None]
    excess = overlaps(own, other) - limits.iou_threshold
    barely = np.any(better & (abs(excess) <= SUPPRESSED), axis=1)
    return at_edge, barely, better & (excess > 0)


def mask_iou(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the IoU of two binary masks; 1 for two empty masks."""
    union = (found | expected).sum()
    return float((found & expected).sum() / union) if union else 1.0
