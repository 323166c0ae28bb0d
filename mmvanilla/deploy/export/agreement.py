"""How well an exported model agrees with the one in PyTorch."""

from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

# What counts as the same: relative error of features, difference of scores, overlap of boxes and of
# masks, share of pixels with the same label.
TOLERANCE, SCORES, BOXES, MASKS, PIXELS = 1e-3, 1e-3, 0.99, 0.98, 0.999

Outputs = dict[str, np.ndarray]


class Agreement(NamedTuple):
    """Whether everything is within its bounds, and the figures, for people."""

    agrees: bool
    text: str


def compare(found: Outputs, expected: Outputs) -> Agreement:
    """Compare the outputs of one image by their names, whatever model they come from."""
    if found.keys() != expected.keys():
        return Agreement(False, f'outputs {list(found)}, expected {list(expected)}')
    if 'boxes' in expected:
        return compare_detections(found, expected)
    for name in expected:
        if found[name].shape != expected[name].shape:
            shapes = f'{found[name].shape}, expected {expected[name].shape}'
            return Agreement(False, f'{name} of shape {shapes}')
    if 'label_map' in expected:
        same = float((found['label_map'] == expected['label_map']).mean())
        return Agreement(same >= PIXELS, f'{same:.3%} of the pixels with the same label')
    worst = max(relative_error(found[name], expected[name]) for name in expected)
    return Agreement(worst <= TOLERANCE, f'relative error {worst:.1e}')


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the L2 norm of the difference over that of what is expected."""
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    return float(difference / max(np.linalg.norm(expected), 1e-12))


def compare_detections(found: Outputs, expected: Outputs) -> Agreement:
    """Match boxes of the same label one to one, best score first, and compare what is matched.

    A box may be without a partner only where its score is at the edge of being reported at all.
    """
    overlaps = box_iou(torch.from_numpy(expected['boxes']), torch.from_numpy(found['boxes']))
    overlaps[torch.from_numpy(expected['labels'][:, None] != found['labels'][None])] = 0
    pairs, boxes = [], []
    for i in range(len(overlaps)):
        if len(found['boxes']) and (best := overlaps[i].max().item()) > BOXES:
            pairs.append((i, overlaps[i].argmax().item()))
            boxes.append(best)
            overlaps[:, pairs[-1][1]] = 0
    edge = max((o['scores'].min() for o in (found, expected) if len(o['scores'])), default=0.0)
    strays = np.concatenate(
        [
            np.delete(expected['scores'], [i for i, _ in pairs]),
            np.delete(found['scores'], [j for _, j in pairs]),
        ]
    )
    differences = [abs(expected['scores'][i] - found['scores'][j]) for i, j in pairs]
    scores = float(max(differences, default=0.0))
    text = (
        f'{len(pairs)} of {len(expected["boxes"])} boxes matched by {len(found["boxes"])}, '
        f'IoU {min(boxes, default=1):.4f}, scores within {scores:.1e}'
    )
    agrees = bool((strays <= edge + SCORES).all()) and scores <= SCORES
    if 'masks' in expected:
        ious = [mask_iou(expected['masks'][i] > 0.5, found['masks'][j] > 0.5) for i, j in pairs]
        text += f', mask IoU {min(ious, default=1):.4f}'
        agrees = agrees and min(ious, default=1) > MASKS
    return Agreement(agrees, text)


def mask_iou(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the overlap of two binary masks; of two empty ones it is 1."""
    union = (found | expected).sum()
    return float((found & expected).sum() / union) if union else 1.0
