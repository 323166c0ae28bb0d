"""How well an exported model agrees with the one in PyTorch."""

from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from .limits import Limits

# What counts as the same: relative error of features, difference of scores, overlap of boxes and of
# masks, share of pixels with the same label.
TOLERANCE, SCORES, BOXES, MASKS, PIXELS = 1e-3, 1e-3, 0.99, 0.98, 0.999
PLACE = 0.05  # pixels; boxes so near are the same whatever their overlap: some have no area
SUPPRESSED = 1e-4  # how near to the threshold of suppression an overlap may fall on either side

MMDET = Limits()

Outputs = dict[str, np.ndarray]


class Agreement(NamedTuple):
    """Whether everything is within its bounds, and the figures, for people."""

    agrees: bool
    text: str


def compare(found: Outputs, expected: Outputs, limits: Limits = MMDET) -> Agreement:
    """Compare the outputs of one image by their names, whatever model they come from.

    Args:
        found: What an exported model returns, masks pasted.
        expected: What the model in PyTorch does.
        limits: Where the lists of a detector's boxes end; what is exported has them as ``limits``.
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
    """Return the L2 norm of the difference over that of what is expected."""
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    return float(difference / max(np.linalg.norm(expected), 1e-12))


def compare_detections(found: Outputs, expected: Outputs, limits: Limits) -> Agreement:
    """Match boxes of the same label one to one and compare what is matched.

    A box may be without a partner only where a small difference decides whether it is reported; and
    at least half must have one, unless both lists are full: many scores may be the same.
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
        and strays_explained(found, expected, pairs, limits)
    )
    if not most:
        text = 'no boxes in either, so that little is compared'
    elif 'masks' in expected:
        masks = [mask_iou(expected['masks'][i] > 0.5, found['masks'][j] > 0.5) for i, j in pairs]
        text += f', mask IoU {min(masks, default=1):.4f}'
        agrees = agrees and min(masks, default=1) > MASKS
    return Agreement(agrees, text)


def match(found: Outputs, expected: Outputs) -> tuple[list[tuple[int, int]], list[float]]:
    """Pair what is expected, best score first, with the nearest score in the same place.

    Returns:
        The indices of each pair, of what is expected and what is found, and their overlaps.
    """
    ious = overlaps(expected, found)
    places = abs(expected['boxes'][:, None] - found['boxes'][None]).max(2, initial=0)
    same = (ious > BOXES) | (places <= PLACE)
    same &= expected['labels'][:, None] == found['labels'][None]
    distances = abs(expected['scores'][:, None].astype(np.float64) - found['scores'][None])
    distances[~same] = np.inf
    pairs = []
    for i in np.argsort(-expected['scores'], kind='stable').tolist():
        # Of equal scores take the nearest place.
        j = int(np.lexsort((places[i], distances[i]))[0]) if len(places[i]) else -1
        if j >= 0 and np.isfinite(distances[i, j]):
            pairs.append((i, j))
            distances[:, j] = np.inf
    return pairs, [float(ious[i, j]) if places[i, j] > PLACE else 1.0 for i, j in pairs]


def overlaps(first: Outputs, second: Outputs) -> np.ndarray:
    """Return the IoU (K, L) of the boxes of two lists; of boxes without area it is 0."""
    boxes = (torch.from_numpy(o['boxes'].astype(np.float64)) for o in (first, second))
    return np.nan_to_num(box_iou(*boxes).numpy())


def strays_explained(
    found: Outputs, expected: Outputs, pairs: list[tuple[int, int]], limits: Limits
) -> bool:
    """Return whether every box without a partner is at an edge of being reported.

    Edges are the threshold of scores; where the other list is full, its lowest score; and the
    threshold of suppression: a box goes, and one that it suppressed comes.
    """
    lists = (expected, found)
    strays = [np.ones(len(o['boxes']), dtype=bool) for o in lists]
    for pair in pairs:
        for stray, index in zip(strays, pair, strict=True):
            stray[index] = False
    reasons = [edges(own, other, limits) for own, other in (lists, lists[::-1])]
    for k in (0, 1):
        at_edge, barely, suppressed = reasons[k]
        gone = strays[1 - k] & reasons[1 - k][1]
        explained = at_edge | barely | (suppressed & gone[None]).any(1)
        if not explained[strays[k]].all():
            return False
    return True


def edges(own: Outputs, other: Outputs, limits: Limits) -> tuple[np.ndarray, ...]:
    """Return why boxes of one list may lack in another.

    Returns:
        Which have a score at the edge, (K,); which are at the threshold of suppression by a better
        one of the other list, (K,); and which better ones there are above it, (K, L).
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
    """Return the overlap of two binary masks; of two empty ones it is 1."""
    union = (found | expected).sum()
    return float((found & expected).sum() / union) if union else 1.0
