"""Fixed outputs of the heads, so that no time depends on what untrained heads happen to find.

The number of boxes that pass a detector's threshold decides how long suppression, the second stage
and the pasting of masks take; with random weights it is arbitrary. Here the heads compute, and
what they return is replaced: by the same values for every backbone, with so many high scores that
the detector, at the thresholds of its config, ends with as many detections as it may return.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

HIGH, LOW = 4.0, -8.0  # logits of what is found and of what is not
FOUND = 300  # boxes or pairs of anchor and class with a high score


def fix_outputs(model: nn.Module) -> bool:
    """Replace what the heads of a detector return, for good.

    Args:
        model: Any model. RPN, the heads of two-stage detectors and dense heads with sigmoid scores
            (RetinaNet and its kin) are known; others, such as a segmentor's, stay as they are.

    Returns:
        Whether a head was found.
    """
    roi_head = getattr(model, 'roi_head', None)
    dense = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
    found = False
    if dense is not None:
        dense.register_forward_hook(_Fixed(dense_scores))
        found = True
    if roi_head is not None:
        heads = roi_head.bbox_head
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            head.register_forward_hook(_Fixed(box_scores))
    return found


class _Fixed:
    """A forward hook that replaces scores and box deltas by fixed ones of the same shapes."""

    def __init__(self, make_scores: Callable[[torch.Size, torch.Generator], Tensor]) -> None:
        self.make_scores = make_scores
        self.known: dict[tuple, Tensor] = {}

    def __call__(self, module: nn.Module, args: tuple, output: tuple) -> tuple:
        scores, deltas, *others = output
        if isinstance(scores, Tensor):
            return (self._like(scores), torch.zeros_like(deltas), *others)
        levels = [self._like(level, i) for i, level in enumerate(scores)]
        return (levels, [torch.zeros_like(level) for level in deltas], *others)

    def _like(self, scores: Tensor, seed: int = 0) -> Tensor:
        key = (seed, scores.shape, scores.device, scores.dtype)
        if key not in self.known:
            generator = torch.Generator().manual_seed(seed)
            self.known[key] = self.make_scores(scores.shape, generator).to(scores)
        return self.known[key]


def dense_scores(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return logits (N, A * classes, H, W): random, and some of each level high."""
    scores = LOW + torch.rand(shape, generator=generator)
    flat = scores.flatten(1)
    index = torch.randperm(flat.shape[1], generator=generator)[:FOUND]
    flat[:, index] = HIGH + torch.rand(len(index), generator=generator)
    return scores


def box_scores(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return logits (R, classes + 1), of which one class is high for some boxes."""
    boxes, classes = shape
    scores = LOW + torch.rand(shape, generator=generator)
    scores[:, -1] = HIGH
    found = torch.randperm(boxes, generator=generator)[:FOUND]
    scores[found, torch.randint(classes - 1, (len(found),), generator=generator)] = 2 * HIGH
    return scores
