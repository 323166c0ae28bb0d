"""Pictures of training batches, as the model gets them."""

import copy
import math
import os

import cv2
import numpy as np
import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..deploy.draw import Annotator
from ..deploy.predict import tile
from ..whole_files import replace_file

SWAPS = ('_channel_conversion', 'channel_conversion', 'to_rgb')  # in mmdet, mmseg, mmpretrain


def write_preview(runner: Runner, number: int) -> list[str]:
    """Write augmented training batches with their labels, before the training.

    A loader of its own draws the batches, so the training sees the same images as without it.

    Args:
        runner: The runner of a training.
        number: Number of batches.

    Returns:
        The paths of the pictures, ``WORK_DIR/preview/batch_0.jpg`` and so on.
    """
    settings = copy.deepcopy(runner.cfg.train_dataloader)
    settings.update(num_workers=0, persistent_workers=False)
    loader = Runner.build_dataloader(settings, seed=runner.seed)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    meta = loader.dataset.metainfo
    annotator = Annotator(meta.get('classes') or (), meta.get('palette'))
    paths = []
    with torch.random.fork_rng():
        for i, batch in zip(range(number), loader, strict=False):
            data = model.data_preprocessor(batch, training=True)
            pictures = restore(data['inputs'], model.data_preprocessor)
            drawn = [
                _draw(annotator, picture, sample)
                for picture, sample in zip(pictures, data['data_samples'], strict=True)
            ]
            sheet = tile(drawn, math.ceil(math.sqrt(len(drawn))))
            paths.append(os.path.join(runner.work_dir, 'preview', f'batch_{i}.jpg'))
            replace_file(paths[-1], cv2.imencode('.jpg', sheet)[1].tobytes())
    return paths


def restore(inputs: torch.Tensor, preprocessor: torch.nn.Module) -> list[np.ndarray]:
    """Return pictures (H, W, 3), uint8, BGR, of the inputs (N, C, H, W) of a net."""
    if getattr(preprocessor, '_enable_normalize', False):
        inputs = inputs * preprocessor.std + preprocessor.mean
    if any(getattr(preprocessor, name, False) for name in SWAPS) and inputs.shape[1] == 3:
        inputs = inputs.flip(1)
    images = inputs.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    # With one or two channels the first one is a gray picture.
    order = [0, 1, 2] if images.shape[-1] >= 3 else [0, 0, 0]
    return [np.ascontiguousarray(image[..., order]) for image in images]


def _draw(annotator: Annotator, picture: np.ndarray, sample: object) -> np.ndarray:
    drawn = annotator.ground_truth(picture, sample)  # type: ignore[arg-type]
    return picture if drawn is None else drawn
