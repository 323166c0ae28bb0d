"""Preprocessing that every exported model starts with."""

import math
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from ...errors import UserError
from ...models import VanillaNet
from .limits import Limits

STRIDE = 32  # of nets without a known stride
# Preprocessors of mmengine, mmdet, mmseg and mmpretrain.
KNOWN = (
    'ImgDataPreprocessor',
    'DetDataPreprocessor',
    'SegDataPreProcessor',
    'ClsDataPreprocessor',
)


class Pixels(nn.Module):
    """Normalization and padding of images of one size, as in OpenMMLab's data preprocessors.

    Raises:
        UserError: If the preprocessor pads to a fixed size or is unknown.
    """

    def __init__(self, preprocessor: BaseDataPreprocessor) -> None:
        super().__init__()
        owner = type(preprocessor).forward.__qualname__.partition('.')[0]
        if owner not in KNOWN:
            raise UserError(
                f'data_preprocessor is a {type(preprocessor).__name__} with the forward() of '
                f'{owner}, which cannot be exported; expected that of {", ".join(KNOWN)}'
            )
        padding = getattr(preprocessor, 'test_cfg', None) or {}  # of mmseg
        if padding.get('size'):
            raise UserError(
                f'data_preprocessor.test_cfg pads to {tuple(padding["size"])}, which cannot be '
                'exported; use size_divisor'
            )
        # Names in mmdet, mmseg and mmpretrain.
        swap = ('_channel_conversion', 'channel_conversion', 'to_rgb')
        self.swap_channels = any(getattr(preprocessor, name, False) for name in swap)
        if hasattr(preprocessor, 'test_cfg'):  # OneDL's has pad_size_divisor, too, for training
            self.divisor = padding.get('size_divisor') or 1
            self.pad_value = preprocessor.pad_val
        else:
            self.divisor, self.pad_value = preprocessor.pad_size_divisor, preprocessor.pad_value
        self.normalize = preprocessor._enable_normalize
        if self.normalize:
            self.register_buffer('mean', preprocessor.mean[None].clone())
            self.register_buffer('std', preprocessor.std[None].clone())

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W), BGR of 0 to 255, to (N, C, H', W'), padded below and right."""
        height, width = image.shape[-2:]
        if self.swap_channels and image.shape[1] == 3:
            image = image.flip(1)
        if self.normalize:
            image = (image - self.mean) / self.std
        if self.divisor > 1:
            right, below = -width % self.divisor, -height % self.divisor
            image = F.pad(image, (0, right, 0, below), value=self.pad_value)
        return image


class ImageFunction(nn.Module):
    """A model, in eval mode, as a function from an image to tensors.

    Attributes:
        channels: C of the image (1, C, H, W).
        stride: The net's stride in pixels.
        min_size: Smallest height and width, in pixels; below the stride if the model pads images.
        limits: Which boxes a detector returns.
        task: What the model computes, for the file's metadata.
        batched: Whether the function takes several images of one size, (N, C, H, W).
        outputs: Shape and meaning of each returned tensor by name, for the file's metadata.
        thresholds: Thresholds of the model by name, for the file's metadata.
    """

    task: str
    batched = True
    limits = Limits()
    outputs: dict[str, dict]
    thresholds: dict[str, Any] = {}

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.pixels = Pixels(model.data_preprocessor)
        nets = [module for module in model.modules() if isinstance(module, VanillaNet)]
        self.channels = nets[0].in_channels if nets else 3
        self.stride = max((net.min_size for net in nets), default=STRIDE)
        divisor = self.pixels.divisor
        # Tracing specializes a side of length 1.
        self.min_size = max(2, (math.ceil(self.stride / divisor) - 1) * divisor + 1)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the returned tensors."""
        return tuple(self.outputs)
