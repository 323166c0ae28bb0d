"""Detectors as functions from an image to boxes, scores, labels and masks.

mmdet's lists of results vary in length. Here they are tensors of fixed length, so that they can be
traced: fillers pad them, and the last step drops the fillers.
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

FILLER = -1.0  # score of a filler, below every threshold
BOXES = dict(
    boxes=dict(shape='boxes 4', meaning='x1 y1 x2 y2 in pixels of the image given, best first'),
    scores=dict(shape='boxes', meaning='score of each box, 0 to 1'),
    labels=dict(shape='boxes', meaning='index of the class of each box'),
)
PASTE = (
    'pixel (x, y) is in the mask of box x1 y1 x2 y2 if the mask, sampled bilinearly at column '
    '(x + 0.5 - x1) / (x2 - x1) * columns - 0.5 and row (y + 0.5 - y1) / (y2 - y1) * rows - 0.5, '
    'with 0 outside, is at least thresholds.mask_thr'
)


class OneStage(ImageFunction):
    """RetinaNet.

    Raises:
        UserError: If the model overrides how mmdet computes its results.
    """

    task = 'object detection'
    batched = False
    outputs = BOXES

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model)
        head = model.bbox_head
        check_methods(model, 'the model', SingleStageDetector, 'predict', 'extract_feat')
        check_dense_head(head, 'bbox_head', RetinaHead)
        check_activation(head, 'bbox_head')
        self.model, self.limits = model, read_limits(head.test_cfg, 'bbox_head.test_cfg')
        self.thresholds = self.limits.describe()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, C, H, W) to boxes (K, 4), xyxy, scores (K,) and labels (K,)."""
        head = self.model.bbox_head
        features = self.model.extract_feat(self.pixels(image))
        boxes, scores, labels, _ = best_anchors(head, features, image)
        return best_boxes(boxes, scores, labels, self.limits)


class TwoStage(ImageFunction):
    """Faster R-CNN, or Mask R-CNN, whose masks are (K, 28, 28) probabilities inside the boxes.

    Raises:
        UserError: If the model overrides how mmdet computes its results.
    """

    task = 'object detection'
    batched = False
    outputs = BOXES

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
        self.thresholds = self.limits.describe()
        if head.with_mask:
            self.task = 'instance segmentation'
            self.outputs = dict(BOXES, masks=describe_masks(head))
            self.thresholds['mask_thr'] = self.limits.mask_thr
        limits = read_limits(model.rpn_head.test_cfg, 'rpn_head.test_cfg')
        # mmdet has no score threshold for proposals, except that of nms.
        score_thr = max(FILLER, model.rpn_head.test_cfg.nms.get('score_threshold', FILLER))
        self.proposal_limits = limits._replace(score_thr=score_thr)
        anchors = model.rpn_head.prior_generator
        if anchors.num_base_priors[-1] == 1:  # mmdet's RPN fails at a level of a single anchor
            self.min_size = max(self.min_size, 2 * max(anchors.strides[-1]))

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
        """Return ``max_per_img`` proposals (R, 4) and a mask (R,) of the real ones.

        The others are fillers, which suppress nothing and come last.
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
        """Classify and refine proposals (R, 4); ``real`` (R,) is False for fillers."""
        head, limits = self.model.roi_head.bbox_head, self.limits
        scores, deltas = head(pool(self.model.roi_head.bbox_roi_extractor, features, rois))
        scores = scores.softmax(-1)[:, : head.num_classes]
        scores = torch.where(real[:, None], scores, FILLER)
        number = 1 if head.reg_class_agnostic else head.num_classes
        priors = rois[:, None].expand(-1, number, -1).reshape(-1, 4)
        boxes = decode(head, priors, deltas.reshape(-1, 4), image)
        boxes = boxes.reshape(-1, number, 4).expand(-1, head.num_classes, -1).reshape(-1, 4)
        labels = torch.arange(head.num_classes, device=image.device).expand(len(rois), -1)
        # Few pairs of box and class are above the threshold. The filler before them keeps the list
        # from being empty.
        chosen = (scores.flatten() > limits.score_thr).nonzero()[:, 0]
        scores = torch.cat([scores.new_full((1,), FILLER), scores.flatten()[chosen]])
        chosen = torch.cat([chosen.new_zeros(1), chosen])
        return best_boxes(boxes[chosen], scores, labels.flatten()[chosen], limits)


@torch.no_grad()
def describe_masks(head: StandardRoIHead) -> dict[str, str]:
    """Return shape and meaning of the masks, for the file's metadata."""
    extractor = head.mask_roi_extractor
    pooled = torch.zeros(1, extractor.out_channels, *extractor.roi_layers[0].output_size)
    rows, columns = head.mask_head(pooled).shape[-2:]
    meaning = 'probability that a point of the box is in the object'
    return dict(shape=f'boxes {rows} {columns}', meaning=meaning, paste=PASTE)


def check_dense_head(head: nn.Module, name: str, base: type) -> None:
    """Check that an anchor head computes boxes and scores by ``base``'s methods."""
    methods = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
    check_methods(head, name, base, *methods)
    check_coder(head, name)
    require_positive(head.test_cfg, f'{name}.test_cfg', 'nms_pre')


def check_coder(head: nn.Module, name: str) -> None:
    """Check that a head has a known box coder."""
    coder = head.bbox_coder
    if type(coder) not in (DeltaXYWHBBoxCoder, TBLRBBoxCoder):
        raise not_whole(
            f'{name}.bbox_coder is a {type(coder).__name__}, expected DeltaXYWHBBoxCoder or '
            'TBLRBBoxCoder'
        )
    if coder.use_box_type or coder.encode_size != 4:
        raise not_whole(f'{name}.bbox_coder returns no tensors of 4 coordinates')


def check_activation(head: nn.Module, name: str) -> None:
    """Check that a head's loss does not compute the scores."""
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        kind = type(head.loss_cls).__name__
        raise not_whole(f'{name}.loss_cls is a {kind}, which computes scores from logits itself')


def check_extractor(extractor: nn.Module, name: str) -> None:
    """Check that an extractor averages one level per box."""
    check_methods(extractor, name, SingleRoIExtractor, 'forward', 'map_roi_levels')
    for layer in extractor.roi_layers:
        mode = getattr(layer, 'pool_mode', None)
        if type(layer) is not RoIAlign or mode != 'avg':
            raise not_whole(
                f'{name}.roi_layer is {type(layer).__name__} with pool_mode={mode!r}, expected '
                "RoIAlign with 'avg'"
            )


def best_anchors(
    head: nn.Module, features: tuple[Tensor, ...], image: Tensor
) -> tuple[Tensor, ...]:
    """Return boxes, scores, labels and levels of the best ``nms_pre`` anchors of every level.

    Fillers replace missing anchors and boxes that are too small. ``head`` is that of an RPN or a
    RetinaNet, and ``features`` are the levels of the neck, (1, C, H, W) each.
    """
    levels = head(features)
    if len(levels) != 2:
        raise not_whole(
            f'{type(head).__name__} gives {len(levels)} maps per level, expected scores and boxes'
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
    """Return boxes (K, 4), xyxy, clipped to the image if the head's coder clips."""
    boxes = head.bbox_coder.decode(priors, deltas)
    clips = head.bbox_coder.clip_border
    return clip_boxes_to_image(boxes, image.shape[-2:]) if clips else boxes


def without_small(boxes: Tensor, scores: Tensor, cfg: ConfigDict) -> Tensor:
    """Return scores, with ``FILLER`` for boxes that mmdet drops for their size."""
    min_size = cfg.get('min_bbox_size', -1)
    if min_size < 0:
        return scores
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sides > min_size).all(1), scores, FILLER)


def pool(extractor: SingleRoIExtractor, features: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Pool features (1, C, H, W) inside each box (K, 4), from the level for its size.

    Every level pools a filler before its boxes, so that none is empty.
    """
    levels = extractor.map_roi_levels(torch.cat([boxes[:, :1], boxes], 1), extractor.num_inputs)
    on_level = levels[:, None] == torch.arange(extractor.num_inputs, device=boxes.device)
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    pooled = []
    for level, (layer, feature) in enumerate(zip(extractor.roi_layers, features, strict=False)):
        chosen = torch.cat([rois.new_zeros(1, 5), rois[on_level[:, level].nonzero()[:, 0]]])
        size, scale, ratio = layer.output_size, layer.spatial_scale, layer.sampling_ratio
        pooled.append(roi_align(feature, chosen, size, scale, ratio, layer.aligned))
    # The row of each box among the pooled ones: after earlier levels and earlier boxes.
    counts = on_level.sum(0) + 1
    rows = counts.cumsum(0) - counts + on_level.cumsum(0)
    return torch.cat(pooled)[torch.where(on_level, rows, 0).sum(1)]


def best_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, limits: Limits
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels after suppression and score threshold.

    Boxes below the threshold suppress none above it, so they may be dropped last.
    """
    keep = grouped_nms(boxes, scores, labels, limits)
    keep = keep[scores[keep] > limits.score_thr]
    return boxes[keep], scores[keep], labels[keep]


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, limits: Limits) -> Tensor:
    """Suppress boxes (K, 4), xyxy, among those with the same number in ``groups`` (K,).

    Return the indices of the boxes that stay, best first, at most ``max_per_img``.
    """
    # An offset per group moves boxes of different groups apart.
    offset = (boxes.max() + 1) * groups.to(boxes)
    if limits.class_agnostic:
        many = (scores > limits.score_thr).sum() >= limits.split_thr
        offset = offset * many.to(boxes)  # mmcv separates the groups of many boxes
    return nms(boxes + offset[:, None], scores, limits.iou_threshold)[: limits.max_per_img]


def pad_rows(values: Tensor, number: int) -> Tensor:
    """Append ``number`` rows of zeros to (K, ...), for the indices of fillers."""
    return torch.cat([values, values.new_zeros(number, *values.shape[1:])])
