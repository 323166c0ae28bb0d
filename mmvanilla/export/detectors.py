"""Detectors as plain functions of an image, down to boxes, labels, scores and masks.

What mmdet does with lists of results of varying length is done here on whole tensors, so that it
can be traced: where a list would be shorter, fillers stand in, and only the last step drops them.
"""

import torch
import torch.nn.functional as F


from mmdet.models.detectors import SingleStageDetector
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from ..errors import UserError
from .pixels import Pixels

FILLER = -1.0  # as a score: below every threshold


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clip boxes (K, 4), xyxy, to an image."""
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


def grouped_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, limit: int
) -> Tensor:
    """Suppress boxes (K, 4) by better ones of the same group; return the indices of those kept.

    Args:
        boxes: xyxy.
        scores: (K,).
        groups: The class or level of each box, (K,).
        iou_threshold: Above it a box is suppressed.
        limit: How many to return at most, best first.
    """
    # Moved so far apart that boxes of different groups do not meet.
    offset = (boxes.max() + 1) * groups.to(boxes)
    return nms(boxes + offset[:, None], scores, iou_threshold)[:limit]


def top(values: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the highest values of (K,) and their indices, fillers (index K or more) if K is less."""
    return torch.cat([values, values.new_full((number,), FILLER)]).topk(number)


def pad_rows(values: Tensor, number: int) -> Tensor:
    """Append rows of zeros to (K, ...), which the indices of fillers point to."""
    return torch.cat([values, values.new_zeros(number, *values.shape[1:])])


class OneStage(nn.Module):
    """RetinaNet, or another detector with anchors and one stage.

    Args:
        model: The detector, in eval mode.
    """

    names = ('boxes', 'scores', 'labels')

    def __init__(self, model: SingleStageDetector) -> None:
        super().__init__()
        self.pixels = Pixels(model.data_preprocessor)
        self.model = model
        self.cfg = model.bbox_head.test_cfg

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, 3, H, W) to boxes (K, 4), scores (K,) and labels (K,)."""
        head, cfg = self.model.bbox_head, self.cfg
        height, width = image.shape[-2:]
        levels = head(self.model.extract_feat(self.pixels(image)))
        sizes = [score.shape[-2:] for score in levels[0]]
        anchors = head.prior_generator.grid_priors(sizes, device=image.device)
        found = []
        for scores, deltas, priors in zip(*levels, anchors, strict=True):
            scores = scores[0].permute(1, 2, 0).sigmoid().flatten()
            deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
            best, index = top(scores, cfg.nms_pre)
            index, labels = index // head.num_classes, index % head.num_classes
            priors, deltas = (pad_rows(values, cfg.nms_pre)[index] for values in (priors, deltas))
            found.append((head.bbox_coder.decode(priors, deltas), best, labels))
        boxes, scores, labels = (torch.cat(values) for values in zip(*found, strict=True))
        return best_boxes(clip(boxes, height, width), scores, labels, cfg)


def best_boxes(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: dict) -> tuple[Tensor, ...]:
    """Return the boxes, scores and labels that remain after suppression and the threshold.

    What is below the threshold comes last and suppresses nothing above it, so it may be cut last.
    """
    keep = grouped_nms(boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img)
    keep = keep[scores[keep] > cfg.score_thr]
    return boxes[keep], scores[keep], labels[keep]
