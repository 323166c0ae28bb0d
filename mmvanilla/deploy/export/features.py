"""The backbone with its neck, segmentors and classifiers as plain functions of an image."""

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from ...errors import UserError
from .pixels import ImageFunction, Pixels


class Features(nn.Module):
    """The backbone and, where there is one, the neck of a detector or segmentor."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.pixels = Pixels(model.data_preprocessor)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        number = getattr(self.neck, 'num_outs', None) or len(model.backbone.out_indices)
        self.output_names = tuple(f'level{i}' for i in range(number))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image (1, 3, H, W) to the features of every level, (1, C, h, w)."""
        return tuple(self.neck(self.backbone(self.pixels(image))))


class Classifier(ImageFunction):
    """A classifier of mmpretrain."""

    output_names = ('logits',)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Map an image (1, 3, H, W) to logits (1, classes)."""
        return (self.model(self.pixels(image), mode='tensor'),)


class Segmentor(ImageFunction):
    """A segmentor that sees the whole image at once.

    Raises:
        UserError: If the model is tested with a sliding window or has a single class.
    """

    def __init__(self, model: BaseModel, label_map: bool = False) -> None:
        super().__init__(model)
        if model.test_cfg.get('mode') != 'whole':
            raise UserError(
                f'model.test_cfg.mode is {model.test_cfg.get("mode")!r}, but only whole images can '
                'be exported; set model.test_cfg.mode=whole'
            )
        if model.decode_head.out_channels == 1:
            raise UserError('a decode_head with one output channel cannot be exported; use two')
        self.label_map = label_map
        self.output_names = ('label_map',) if label_map else ('logits',)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Map an image (1, 3, H, W) to logits (1, classes, H, W) or a label map (1, H, W)."""
        height, width = image.shape[-2:]
        head = self.model.decode_head
        padded = self.pixels(image)
        logits = head(self.model.extract_feat(padded))
        size = padded.shape[-2:]
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=head.align_corners)
        logits = logits[..., :height, :width]
        return (logits.argmax(1),) if self.label_map else (logits,)
