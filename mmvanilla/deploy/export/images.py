"""Images on which a fused or exported model is compared with the original."""

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import Tensor

from ...cli.config import check_data, tested_dataset
from ...datasets.shapes import draw_scene


def sample_images(cfg: Config, number: int) -> tuple[list[Tensor], str]:
    """Return the first images of a config's test data, or shapes where these data are missing.

    Args:
        cfg: The config.
        number: How many.

    Returns:
        Images as the test pipeline gives them, float32 (1, 3, H, W), BGR of 0 to 255; and what they
        are, for people.
    """
    try:
        check_data(cfg, ('test_dataloader',))
    except FileNotFoundError:
        rng = np.random.default_rng(0)
        images = [draw_scene(rng, short_side(cfg)).image for _ in range(number)]
        return [to_tensor(image) for image in images], 'embedded shapes'
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    number = min(number, len(dataset))
    inputs = (dataset[i]['inputs'] for i in range(number))
    return [image[None].float().contiguous() for image in inputs], 'images of the test data'


def to_tensor(image: np.ndarray) -> Tensor:
    """Turn an image (H, W, 3) of bytes into a tensor (1, 3, H, W)."""
    return torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)).contiguous()


def short_side(cfg: Config) -> int:
    """Return the shorter side, in pixels, of what the test pipeline of a config makes of images."""
    for step in tested_dataset(cfg).get('pipeline', []):
        if step['type'] == 'Resize' and 'scale' in step:
            return min(step['scale'])
        if step['type'] == 'CenterCrop':
            return step['crop_size']
    return 512
