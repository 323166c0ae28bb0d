"""What all plain functions of an image begin with: from its pixels to what a model takes."""

import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from ...errors import UserError


class Pixels(nn.Module):
    """Normalise and pad an image, as OpenMMLab's data preprocessors do with a batch of one.

    Raises:
        UserError: If it pads to a fixed size.
    """

    def __init__(self, preprocessor: BaseDataPreprocessor) -> None:
        super().__init__()
        padding = getattr(preprocessor, 'test_cfg', None) or {}  # mmseg's
        if padding.get('size'):
            raise UserError(
                f'data_preprocessor.test_cfg pads to {tuple(padding["size"])}, which cannot be '
                'exported; use size_divisor'
            )
        # mmdet's, mmseg's and mmpretrain's names of the same.
        swap = ('_channel_conversion', 'channel_conversion', 'to_rgb')
        self.swap_channels = any(getattr(preprocessor, name, False) for name in swap)
        self.divisor = getattr(preprocessor, 'pad_size_divisor', padding.get('size_divisor') or 1)
        self.normalize = preprocessor._enable_normalize
        if self.normalize:
            self.register_buffer('mean', preprocessor.mean[None].clone())
            self.register_buffer('std', preprocessor.std[None].clone())

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (1, 3, H, W), BGR of 0 to 255, to (1, 3, H', W'), padded below and right."""
        height, width = image.shape[-2:]
        if self.swap_channels:
            image = image.flip(1)
        if self.normalize:
            image = (image - self.mean) / self.std
        if self.divisor > 1:
            image = F.pad(image, (0, -width % self.divisor, 0, -height % self.divisor))
        return image


class ImageFunction(nn.Module):
    """A model, in eval mode, as a plain function of an image."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model
        self.pixels = Pixels(model.data_preprocessor)
