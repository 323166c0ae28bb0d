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

    task = 'features'

    def __init__(self, model: BaseModel) -> None:
        if not hasattr(model, 'backbone'):
            raise UserError(f'{type(model).__name__} has no backbone to export features of')
        super().__init__(model)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        with torch.no_grad():  # no neck declares its number of levels
            levels = self(torch.zeros(1, self.channels, self.stride, self.stride))
        self.outputs = {
            f'level{i}': dict(shape=f'batch {level.shape[1]} rows columns', meaning='features')
            for i, level in enumerate(levels)
        }

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, C, H, W) to the features of every level, (N, C', h, w)."""
        return tuple(self.neck(self.backbone(self.pixels(image))))


class Classifier(ImageFunction):
    """A classifier of mmpretrain.

    Raises:
        UserError: If the model overrides how mmpretrain computes its results.
    """

    task = 'classification'

    def __init__(self, model: BaseModel) -> None:
        from mmpretrain.models.classifiers import ImageClassifier
        from mmpretrain.models.heads import ClsHead, MultiLabelClsHead

        super().__init__(model)
        check_methods(model, 'the model', ImageClassifier, 'forward', 'predict', 'extract_feat')
        base = MultiLabelClsHead if isinstance(model.head, MultiLabelClsHead) else ClsHead
        check_methods(model.head, 'head', base, 'predict', '_get_predictions')
        self.model = model
        activation = 'softmax'
        if base is MultiLabelClsHead:
            activation, head = 'sigmoid', model.head
            self.thresholds = dict(thr=head.thr, topk=head.topk)
        self.outputs = dict(
            logits=dict(
                shape='batch classes',
                activation=activation,
                meaning=f'{activation} gives the score of each class',
            )
        )

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Map images (N, C, H, W) to logits (N, classes)."""
        return (self.model(self.pixels(image), mode='tensor'),)


class Segmentor(ImageFunction):
    """A segmentor of mmseg on whole images, or on the crops of a sliding window.

    Raises:
        UserError: If a sliding window meets labels or padding, or the model has a single class or
            overrides how mmseg computes its results.
    """

    task = 'semantic segmentation'

    def __init__(self, model: BaseModel, label_map: bool = False) -> None:
        from mmseg.models import EncoderDecoder
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        super().__init__(model)
        methods = ('predict', 'inference', 'whole_inference', 'encode_decode', 'extract_feat')
        check_methods(model, 'the model', EncoderDecoder, *methods, 'postprocess_result')
        head = model.decode_head
        check_methods(head, 'decode_head', BaseDecodeHead, 'predict', 'predict_by_feat')
        if model.test_cfg.get('mode') == 'slide':
            if label_map:
                raise UserError(
                    "model.test_cfg.mode is 'slide', which averages the logits of crops, but "
                    'labels are to be exported; leave out --label-map'
                )
            if self.pixels.divisor > 1:  # the file would pad each crop
                raise UserError(
                    "model.test_cfg.mode is 'slide', but data_preprocessor.test_cfg pads images to "
                    f'multiples of {self.pixels.divisor}; remove its size_divisor'
                )
        if head.out_channels == 1:
            raise not_whole('decode_head has one output channel, expected one for each class')
        self.model = model
        self.label_map = label_map
        if label_map:
            meaning = 'label of each pixel; resize it to the original size by nearest neighbours'
            self.outputs = dict(label_map=dict(shape='batch height width', meaning=meaning))
        else:
            self.outputs = dict(
                logits=dict(
                    shape=f'batch {head.out_channels} height width',
                    align_corners=bool(head.align_corners),
                    meaning='resize them bilinearly to the original size, then take the label of '
                    'the largest',
                )
            )

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Map images (N, C, H, W) to logits (N, classes, H, W) or label maps (N, H, W)."""
        height, width = image.shape[-2:]
        head = self.model.decode_head
        padded = self.pixels(image)
        logits = head(self.model.extract_feat(padded))
        size = padded.shape[-2:]
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=head.align_corners)
        logits = logits[..., :height, :width]
        return (logits.argmax(1),) if self.label_map else (logits,)
