"""Detectors as plain functions of an image, down to boxes, scores, labels and masks.

What mmdet does with lists of results, which may be of any length, is done here on whole tensors, so
that it can be traced: where a list would be shorter, fillers stand in; the last step drops them.
"""

import torch
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import SingleRoIExtractor, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, TBLRBBoxCoder
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from .known import check_methods, not_whole
from .limits import Limits, read_limits, require_positive
from .pixels import ImageFunction

FILLER = -1.0  # as a score: below every threshold


class OneStage(ImageFunction):
    """RetinaNet.

    Raises:
        UserError: If mmdet computes its results in another way than is known here.
    """

    output_names = ('boxes', 'scores', 'labels')

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model)
        head = model.bbox_head
        check_methods(model, 'the model', SingleStageDetector, 'predict', 'extract_feat')
        check_dense_head(head, 'bbox_head', RetinaHead)
        check_activation(head, 'bbox_head')
        self.model, self.limits = model, read_limits(head.test_cfg, 'bbox_head.test_cfg')

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, C, H, W) to boxes (K, 4), xyxy, scores (K,) and labels (K,)."""
        head = self.model.bbox_head
        features = self.model.extract_feat(self.pixels(image))
        boxes, scores, labels, _ = best_anchors(head, features, image)
        return best_boxes(boxes, scores, labels, self.limits)


class TwoStage(ImageFunction):
    """Faster R-CNN, or Mask R-CNN, whose masks are (K, 28, 28) probabilities inside the boxes.

    Raises:
        UserError: If mmdet computes its results in another way than is known here.
    """

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model)
        head = model.roi_head
        check_methods(model, 'the model', TwoStageDetector, 'predict', 'extract_feat')
        if not model.with_rpn:
            raise not_whole('it has no rpn_head, expected one')
        check_dense_head(model.rpn_head, 'rpn_head', RPNHead)
        methods = ['predict', 'predict_bbox', '_bbox_forward']
        methods += ['predict_mask', '_mask_forward'] if head.with_mask else []
        check_methods(head, 'roi_head', StandardRoIHead, *methods)
        if head.with_shared_head:
            raise not_whole('roi_head has a shared_head, expected none')
        methods = ['predict_by_feat', '_predict_by_feat_single']
        check_methods(head.bbox_head, 'roi_head.bbox_head', BBoxHead, *methods)
        check_activation(head.bbox_head, 'roi_head.bbox_head')
        check_coder(head.bbox_head, 'roi_head.bbox_head')
        if not (head.bbox_head.with_cls and head.bbox_head.with_reg):
            raise not_whole('roi_head.bbox_head is built without classes or without boxes')
        check_extractor(head.bbox_roi_extractor, 'roi_head.bbox_roi_extractor')
        if head.with_mask:
            check_methods(head.mask_head, 'roi_head.mask_head', FCNMaskHead, *methods)
            check_extractor(head.mask_roi_extractor, 'roi_head.mask_roi_extractor')
        self.model, self.limits = model, read_limits(head.test_cfg, 'roi_head.test_cfg')
        self.output_names = (*OneStage.output_names, *(['masks'] if head.with_mask else []))
        limits = read_limits(model.rpn_head.test_cfg, 'rpn_head.test_cfg')
        # mmdet takes proposals of any score.
        least = max(FILLER, model.rpn_head.test_cfg.nms.get('score_threshold', FILLER))
        self.proposal_limits = limits._replace(score_thr=least)
        anchors = model.rpn_head.prior_generator
        if anchors.num_base_priors[-1] == 1:  # mmdet's RPN fails at a level of a single anchor
            self.least = max(self.least, 2 * max(anchors.strides[-1]))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, C, H, W) to boxes (K, 4), xyxy, scores (K,), labels (K,) and masks."""
        head = self.model.roi_head
        features = self.model.extract_feat(self.pixels(image))
        found = self.second_stage(features, *self.proposals(features, image), image)
        if not head.with_mask:
            return found
        boxes, _, labels = found
        masks = head.mask_head(pool(head.mask_roi_extractor, features, boxes)).sigmoid()
        index = torch.arange(labels.shape[0], device=image.device)  # len() would fix the number
        return *found, masks[index, labels if masks.shape[1] > 1 else 0 * labels]

    def proposals(self, features: tuple[Tensor, ...], image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first stage's boxes (R, 4), always ``max_per_img``, and which are no fillers.

        Fillers may suppress nothing and come last.
        """
        limits = self.proposal_limits
        boxes, scores, _, levels = best_anchors(self.model.rpn_head, features, image)
        keep = grouped_nms(boxes, scores, levels, limits)
        found = (boxes[keep], scores[keep] > limits.score_thr)
        number = limits.max_per_img
        boxes, real = (pad_rows(values, number)[:number] for values in found)
        return boxes, real

    def second_stage(
        self, features: tuple[Tensor, ...], rois: Tensor, real: Tensor, image: Tensor
    ) -> tuple[Tensor, ...]:
        """Classify and refine the proposals (R, 4), of which some are ``real`` (R,)."""
        head, limits = self.model.roi_head.bbox_head, self.limits
        scores, deltas = head(pool(self.model.roi_head.bbox_roi_extractor, features, rois))
        scores = scores.softmax(-1)[:, : head.num_classes]
        scores = torch.where(real[:, None], scores, FILLER)
        number = 1 if head.reg_class_agnostic else head.num_classes
        boxes = decode(
            head, rois[:, None].expand(-1, number, -1).reshape(-1, 4), deltas.reshape(-1, 4), image
        )
        boxes = boxes.reshape(-1, number, 4).expand(-1, head.num_classes, -1).reshape(-1, 4)
        labels = torch.arange(head.num_classes, device=image.device).expand(len(rois), -1)
        # Few of all pairs of box and class are above the threshold. A filler comes first, so that
        # there is always one.
        candidates = (scores.flatten() > limits.score_thr).nonzero()[:, 0]
        first = candidates.new_zeros(1)
        candidates = torch.cat([first, candidates])
        scores = torch.cat([scores.new_full((1,), FILLER), scores.flatten()[candidates[1:]]])
        return best_boxes(boxes[candidates], scores, labels.flatten()[candidates], limits)


def check_dense_head(head: nn.Module, name: str, base: type) -> None:
    """Refuse a head on anchors whose boxes and scores are not computed by ``base``'s methods."""
    methods = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
    check_methods(head, name, base, *methods)
    check_coder(head, name)
    require_positive(head.test_cfg, f'{name}.test_cfg', 'nms_pre')


def check_coder(head: nn.Module, name: str) -> None:
    """Refuse a head whose boxes are coded in an unknown way."""
    coder = head.bbox_coder
    if type(coder) not in (DeltaXYWHBBoxCoder, TBLRBBoxCoder):
        raise not_whole(
            f'{name}.bbox_coder is a {type(coder).__name__}, expected DeltaXYWHBBoxCoder or '
            'TBLRBBoxCoder'
        )
    if coder.use_box_type or coder.encode_size != 4:
        raise not_whole(f'{name}.bbox_coder gives other boxes than tensors of 4 coordinates')


def check_activation(head: nn.Module, name: str) -> None:
    """Refuse a head whose loss has scores of its own."""
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        kind = type(head.loss_cls).__name__
        raise not_whole(f'{name}.loss_cls is a {kind}, which turns logits into scores by itself')


def check_extractor(extractor: nn.Module, name: str) -> None:
    """Refuse other pools than averages of one level for each box."""
    check_methods(extractor, name, SingleRoIExtractor, 'forward', 'map_roi_levels')
    for layer in extractor.roi_layers:
        if type(layer) is not RoIAlign or layer.pool_mode != 'avg':
            kind = f'{type(layer).__name__}{"" if type(layer) is not RoIAlign else " of the max"}'
            raise not_whole(f"{name}.roi_layer is {kind}, expected RoIAlign with pool_mode='avg'")


def best_anchors(
    head: nn.Module, features: tuple[Tensor, ...], image: Tensor
) -> tuple[Tensor, ...]:
    """Return the boxes, scores, labels and levels of the best anchors, ``nms_pre`` of every level.

    Where a level has less, and for boxes that are too small, fillers stand in.

    Args:
        head: RPN's or RetinaNet's head.
        features: The levels of the neck, (1, C, H, W) each.
        image: (1, C, H, W), to whose border boxes are clipped.

    Raises:
        UserError: If the head gives more than scores and boxes.
    """
    levels = head(features)
    if len(levels) != 2:
        raise not_whole(
            f'{type(head).__name__} gives {len(levels)} maps a level, expected scores and boxes'
        )
    number = head.test_cfg.nms_pre
    sizes = [scores.shape[-2:] for scores in levels[0]]
    anchors = head.prior_generator.grid_priors(sizes, device=features[0].device)
    found = []
    for level, (logits, deltas, priors) in enumerate(zip(*levels, anchors, strict=True)):
        logits = logits[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[:, :-1]
        classes, scores = scores.shape[1], scores.flatten()
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        scores, index = torch.cat([scores, scores.new_full((number,), FILLER)]).topk(number)
        index, labels = index // classes, index % classes
        deltas, priors = (pad_rows(values, number)[index] for values in (deltas, priors))
        boxes = decode(head, priors, deltas, image)
        scores = without_small(boxes, scores, head.test_cfg)
        found.append((boxes, scores, labels, torch.full_like(labels, level)))
    return tuple(torch.cat(values) for values in zip(*found, strict=True))


def decode(head: nn.Module, priors: Tensor, deltas: Tensor, image: Tensor) -> Tensor:
    """Return boxes (K, 4), xyxy, within the image where the head clips them."""
    boxes = head.bbox_coder.decode(priors, deltas)
    clips = head.bbox_coder.clip_border
    return clip_boxes_to_image(boxes, image.shape[-2:]) if clips else boxes


def without_small(boxes: Tensor, scores: Tensor, cfg: ConfigDict) -> Tensor:
    """Return the scores with those of boxes replaced that mmdet drops for being too small."""
    least = cfg.get('min_bbox_size', -1)
    if least < 0:
        return scores
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sides > least).all(1), scores, FILLER)


def pool(extractor: SingleRoIExtractor, features: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Pool the features (1, C, H, W) of every box (K, 4) from the level of its size.

    Every level pools its own boxes behind a filler, so that there is always one.
    """
    levels = extractor.map_roi_levels(torch.cat([boxes[:, :1], boxes], 1), extractor.num_inputs)
    here = levels[:, None] == torch.arange(extractor.num_inputs, device=boxes.device)
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    pooled = []
    for level, (layer, feature) in enumerate(zip(extractor.roi_layers, features, strict=False)):
        own = torch.cat([rois.new_zeros(1, 5), rois[here[:, level].nonzero()[:, 0]]])
        size, scale, ratio = layer.output_size, layer.spatial_scale, layer.sampling_ratio
        pooled.append(roi_align(feature, own, size, scale, ratio, layer.aligned))
    # Where each box stands among the pooled ones: behind the levels before, and those before it.
    counts = here.sum(0) + 1
    places = counts.cumsum(0) - counts + here.cumsum(0)
    return torch.cat(pooled)[torch.where(here, places, 0).sum(1)]


def best_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, limits: Limits
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes, scores and labels that remain after suppression and the threshold.

    What is below the threshold suppresses nothing above it, so it may be dropped last.
    """
    keep = grouped_nms(boxes, scores, labels, limits)
    keep = keep[scores[keep] > limits.score_thr]
    return boxes[keep], scores[keep], labels[keep]


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, limits: Limits) -> Tensor:
    """Suppress boxes (K, 4) by better ones of the same group; return the indices of those kept.

    Args:
        boxes: xyxy.
        scores: (K,).
        groups: The class or level of each box, (K,).
        limits: What is suppressed, and how many to return at most, best first.
    """
    # Moved so far apart that boxes of different groups do not meet.
    offset = (boxes.max() + 1) * groups.to(boxes)
    if limits.class_agnostic:
        many = (scores > limits.score_thr).sum() >= limits.split_thr
        offset = offset * many.to(boxes)  # many boxes mmcv takes group by group even so
    return nms(boxes + offset[:, None], scores, limits.iou_threshold)[: limits.max_per_img]


def pad_rows(values: Tensor, number: int) -> Tensor:
    """Append rows of zeros to (K, ...), to which the indices of fillers point."""
    return torch.cat([values, values.new_zeros(number, *values.shape[1:])])
