"""Backbones with necks, segmentors and classifiers as functions of an image."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from ...errors import UserError
from .known import check_methods, not_whole
from .pixels import ImageFunction


class Features(ImageFunction):
    """The backbone and the neck, if any, of a model.

    Raises:
        UserError: If the model has no backbone.
    """

    def __init__(self, model: BaseModel) -> None:
        if not hasattr(model, 'backbone'):
            raise UserError(f'{type(model).__name__} has no backbone to export features of')
        super().__init__(model)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        with torch.no_grad():  # no neck declares its number of levels
            levels = self(torch.zeros(1, self.channels, self.stride, self.stride))
        self.output_names = tuple(f'level{i}' for i in range(len(levels)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, C, H, W) to the features of every level, (1, C', h, w)."""
        return tuple(self.neck(self.backbone(self.pixels(image))))


class Classifier(ImageFunction):
    """A classifier of mmpretrain.

    Raises:
        UserError: If the model overrides how mmpretrain computes its results.
    """

    output_names = ('logits',)

    def __init__(self, model: BaseModel) -> None:
        from mmpretrain.models.classifiers import ImageClassifier
        from mmpretrain.models.heads import ClsHead, MultiLabelClsHead

        super().__init__(model)
        check_methods(model, 'the model', ImageClassifier, 'forward', 'predict', 'extract_feat')
        base = MultiLabelClsHead if isinstance(model.head, MultiLabelClsHead) else ClsHead
        check_methods(model.head, 'head', base, 'predict', '_get_predictions')
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Map an image (1, C, H, W) to logits (1, classes)."""
        return (self.model(self.pixels(image), mode='tensor'),)


class Segmentor(ImageFunction):
    """A segmentor of mmseg on whole images.

    Raises:
        UserError: If the model is tested with a sliding window, has a single class, or overrides
            how mmseg computes its results.
    """

    def __init__(self, model: BaseModel, label_map: bool = False) -> None:
        from mmseg.models import EncoderDecoder
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        super().__init__(model)
        methods = ('predict', 'inference', 'whole_inference', 'encode_decode', 'extract_feat')
        check_methods(model, 'the model', EncoderDecoder, *methods, 'postprocess_result')
        head = model.decode_head
        check_methods(head, 'decode_head', BaseDecodeHead, 'predict', 'predict_by_feat')
        if model.test_cfg.get('mode') != 'whole':
            raise UserError(
                f'model.test_cfg.mode is {model.test_cfg.get("mode")!r}, but only whole images can '
                'be exported; set model.test_cfg.mode=whole'
            )
        if head.out_channels == 1:
            raise not_whole('decode_head has one output channel, expected one for each class')
        self.model = model
        self.label_map = label_map
        self.output_names = ('label_map',) if label_map else ('logits',)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Map an image (1, C, H, W) to logits (1, classes, H, W) or a label map (1, H, W)."""
        height, width = image.shape[-2:]
        head = self.model.decode_head
        padded = self.pixels(image)
        logits = head(self.model.extract_feat(padded))
        size = padded.shape[-2:]
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=head.align_corners)
        logits = logits[..., :height, :width]
        return (logits.argmax(1),) if self.label_map else (logits,)
