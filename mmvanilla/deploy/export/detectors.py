"""Detectors as plain functions of an image, down to boxes, scores, labels and masks.

What mmdet does with lists of results, which may be of any length, is done here on whole tensors, so
that it can be traced: where a list would be shorter, fillers stand in; the last step drops them.
"""

from typing import Any

import torch
from mmdet.models.roi_heads import SingleRoIExtractor
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from .pixels import ImageFunction

FILLER = -1.0  # as a score: below every threshold


class OneStage(ImageFunction):
    """RetinaNet."""

    output_names = ('boxes', 'scores', 'labels')

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, 3, H, W) to boxes (K, 4), xyxy, scores (K,) and labels (K,)."""
        head = self.model.bbox_head
        features = self.model.extract_feat(self.pixels(image))
        boxes, scores, labels, _ = best_anchors(head, features, head.test_cfg.nms_pre)
        boxes = clip_boxes_to_image(boxes, image.shape[-2:])
        return best_boxes(boxes, scores, labels, head.test_cfg)


class TwoStage(ImageFunction):
    """Faster R-CNN, or Mask R-CNN, whose masks are (K, 28, 28) probabilities inside the boxes."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what it returns."""
        return (*OneStage.output_names, *(['masks'] if self.model.roi_head.with_mask else []))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, 3, H, W) to boxes (K, 4), xyxy, scores (K,), labels (K,) and masks."""
        head = self.model.roi_head
        features = self.model.extract_feat(self.pixels(image))
        found = self.second_stage(features, self.proposals(features, image), image)
        if not head.with_mask:
            return found
        boxes, _, labels = found
        masks = head.mask_head(pool(head.mask_roi_extractor, features, boxes)).sigmoid()
        index = torch.arange(labels.shape[0], device=image.device)  # len() would fix the number
        return *found, masks[index, labels if masks.shape[1] > 1 else 0 * labels]

    def proposals(self, features: tuple[Tensor, ...], image: Tensor) -> Tensor:
        """Return the first stage's boxes, always ``max_per_img``; fillers are without area."""
        head = self.model.rpn_head
        cfg = head.test_cfg
        boxes, scores, _, levels = best_anchors(head, features, cfg.nms_pre)
        boxes = clip_boxes_to_image(boxes, image.shape[-2:])
        # As mmdet does, drop what has no area; here it may suppress nothing, and comes last.
        sides = boxes[:, 2:] - boxes[:, :2]
        scores = torch.where((sides > max(cfg.min_bbox_size, 0)).all(1), scores, FILLER)
        keep = grouped_nms(boxes, scores, levels, cfg.nms.iou_threshold, cfg.max_per_img)
        boxes = boxes * (scores > FILLER)[:, None]
        return pad_rows(boxes[keep], cfg.max_per_img)[: cfg.max_per_img]

    def second_stage(
        self, features: tuple[Tensor, ...], rois: Tensor, image: Tensor
    ) -> tuple[Tensor, ...]:
        """Classify and refine the proposals (R, 4)."""
        head, cfg = self.model.roi_head.bbox_head, self.model.roi_head.test_cfg
        scores, deltas = head(pool(self.model.roi_head.bbox_roi_extractor, features, rois))
        scores = scores.softmax(-1)[:, : head.num_classes]
        scores = torch.where((rois[:, 2:] > rois[:, :2]).all(1, keepdim=True), scores, FILLER)
        number = 1 if head.reg_class_agnostic else head.num_classes
        boxes = head.bbox_coder.decode(
            rois[:, None].expand(-1, number, -1).reshape(-1, 4), deltas.reshape(-1, 4)
        )
        boxes = boxes.reshape(-1, number, 4).expand(-1, head.num_classes, -1).reshape(-1, 4)
        labels = torch.arange(head.num_classes, device=image.device).expand(len(rois), -1)
        # Few of all pairs of box and class are above the threshold. A filler comes first, so that
        # there is always one.
        candidates = (scores.flatten() > cfg.score_thr).nonzero()[:, 0]
        first = candidates.new_zeros(1)
        candidates = torch.cat([first, candidates])
        scores = torch.cat([scores.new_full((1,), FILLER), scores.flatten()[candidates[1:]]])
        boxes = clip_boxes_to_image(boxes[candidates], image.shape[-2:])
        return best_boxes(boxes, scores, labels.flatten()[candidates], cfg)


def best_anchors(head: nn.Module, features: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
    """Return the boxes, scores, labels and levels of the best anchors, ``number`` of every level.

    Args:
        head: RPN's or RetinaNet's head, with sigmoid scores.
        features: The levels of the neck, (1, C, H, W) each.
        number: How many of each level; fillers stand in where a level has less.
    """
    levels = head(features)
    sizes = [scores.shape[-2:] for scores in levels[0]]
    anchors = head.prior_generator.grid_priors(sizes, device=features[0].device)
    found = []
    for level, (scores, deltas, priors) in enumerate(zip(*levels, anchors, strict=True)):
        scores = scores[0].permute(1, 2, 0).sigmoid().flatten()
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        scores, index = torch.cat([scores, scores.new_full((number,), FILLER)]).topk(number)
        index, labels = index // head.cls_out_channels, index % head.cls_out_channels
        deltas, priors = (pad_rows(values, number)[index] for values in (deltas, priors))
        boxes = head.bbox_coder.decode(priors, deltas)
        found.append((boxes, scores, labels, torch.full_like(labels, level)))
    return tuple(torch.cat(values) for values in zip(*found, strict=True))


def pool(extractor: SingleRoIExtractor, features: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Pool the features (1, C, H, W) of every box (K, 4) from the level of its size.

    At the other levels its box is empty and adds nothing: the shapes do not depend on the boxes.
    """
    levels = extractor.map_roi_levels(torch.cat([boxes[:, :1], boxes], 1), extractor.num_inputs)
    pooled: Any = 0
    for level, (layer, feature) in enumerate(zip(extractor.roi_layers, features, strict=False)):
        here = levels == level
        rois = torch.where(here[:, None], boxes, 0.0)
        rois = torch.cat([torch.zeros_like(rois[:, :1]), rois], 1)
        size, scale, ratio = layer.output_size, layer.spatial_scale, layer.sampling_ratio
        values = roi_align(feature, rois, size, scale, ratio, layer.aligned)
        pooled = pooled + torch.where(here[:, None, None, None], values, 0.0)
    return pooled


def best_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, cfg: ConfigDict
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes, scores and labels that remain after suppression and the threshold.

    What is below the threshold suppresses nothing above it, so it may be dropped last.
    """
    keep = grouped_nms(boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img)
    keep = keep[scores[keep] > cfg.score_thr]
    return boxes[keep], scores[keep], labels[keep]


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


def pad_rows(values: Tensor, number: int) -> Tensor:
    """Append rows of zeros to (K, ...), to which the indices of fillers point."""
    return torch.cat([values, values.new_zeros(number, *values.shape[1:])])
