"""Fix the outputs of detection heads, because random weights decide how many boxes pass.

The number of boxes above the score threshold decides how long NMS, the second stage and the pasting
of masks take. The heads still compute; their outputs are then replaced by the same values for every
backbone, with enough high scores for as many detections as the config allows.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

HIGH, LOW = 4.0, -8.0  # logits of objects and of background
FOUND = 300  # boxes, or pairs of anchor and class, with a high score


def fix_outputs(model: nn.Module) -> bool:
    """Replace the outputs of a detector's heads, permanently.

    Args:
        model: Any model. RPN, the box heads of two-stage detectors and dense heads with sigmoid
            scores (such as RetinaNet's) are fixed; other heads are left as they are.

    Returns:
        Whether a head was fixed.
    """
    roi_head = getattr(model, 'roi_head', None)
    dense = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
    if dense is not None:
        _fix(dense, dense_scores)
    if roi_head is not None:
        heads = roi_head.bbox_head
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            _fix(head, box_scores)
    return dense is not None or roi_head is not None


def _fix(head: nn.Module, make_scores: Callable[[torch.Size, torch.Generator], Tensor]) -> None:
    """Replace the scores and box deltas of a head, in the same shapes."""

    @cache
    def fixed(shape: torch.Size, device: torch.device, dtype: torch.dtype, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return make_scores(shape, generator).to(device, dtype)

    def like(scores: Tensor, seed: int = 0) -> Tensor:
        return fixed(scores.shape, scores.device, scores.dtype, seed)

    def replace(module: nn.Module, args: tuple, output: tuple) -> tuple:
        scores, deltas, *others = output
        if isinstance(scores, Tensor):
            return (like(scores), torch.zeros_like(deltas), *others)
        levels = [like(level, i) for i, level in enumerate(scores)]
        return (levels, [torch.zeros_like(level) for level in deltas], *others)

    head.register_forward_hook(replace)


def dense_scores(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return random logits (N, A * classes, H, W), ``FOUND`` of each image high."""
    scores = LOW + torch.rand(shape, generator=generator)
    flat = scores.flatten(1)
    index = torch.randperm(flat.shape[1], generator=generator)[:FOUND]
    flat[:, index] = HIGH + torch.rand(len(index), generator=generator)
    return scores


def box_scores(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return random logits (R, classes + 1), with one high class in ``FOUND`` boxes."""
    boxes, classes = shape
    scores = LOW + torch.rand(shape, generator=generator)
    scores[:, -1] = HIGH
    found = torch.randperm(boxes, generator=generator)[:FOUND]
    scores[found, torch.randint(classes - 1, (len(found),), generator=generator)] = 2 * HIGH
    return scores
