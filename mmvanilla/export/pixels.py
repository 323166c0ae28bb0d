"""From the pixels of an image to what a model takes."""

import torch.nn.functional as F
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn


class Pixels(nn.Module):
    """Normalise and pad an image as a data preprocessor does with a batch of one.

    Args:
        preprocessor: mmdet's or mmseg's.
    """

    def __init__(self, preprocessor: ImgDataPreprocessor) -> None:
        super().__init__()
        self.flip = preprocessor.channel_conversion if hasattr(preprocessor, 'channel_conversion') else preprocessor._channel_conversion
        self.register_buffer('mean', preprocessor.mean[None].clone())
        self.register_buffer('std', preprocessor.std[None].clone())
        self.divisor = getattr(preprocessor, 'pad_size_divisor', 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (1, 3, H, W), BGR of 0 to 255, to (1, 3, H', W'), padded below and right."""
        height, width = image.shape[-2:]
        image = (image.flip(1) if self.flip else image) - self.mean
        return F.pad(image / self.std, (0, -width % self.divisor, 0, -height % self.divisor))
