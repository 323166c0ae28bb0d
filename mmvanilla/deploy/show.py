"""Draw the predictions of a test, one file per image."""

import os
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..type_name import library, type_name

VISUALIZER_TYPES = dict(
    mmdet='mmdet.DetLocalVisualizer',
    mmseg='mmseg.SegLocalVisualizer',
    mmpretrain='mmpretrain.UniversalVisualizer',
)


def visualizer_config(cfg: Config) -> dict:
    """Return the config of a visualizer for predictions, by default the library's."""
    visualizer = cfg.get('visualizer')
    if type_name(visualizer) in ('', 'Visualizer'):  # mmengine's base class draws no predictions
        visualizer = dict(type=VISUALIZER_TYPES[library(cfg)])
    return {'name': 'visualizer', **visualizer}


@HOOKS.register_module()
class ShowHook(Hook):
    """Draw every tested image, with its ground truth and prediction, into a folder.

    Pictures keep the paths of their images below the common folder of all images.

    Args:
        folder: The folder of the pictures.
        score_thr: Smallest score of a drawn box.
    """

    def __init__(self, folder: str, score_thr: float = 0.3) -> None:
        self.folder, self.score_thr = folder, score_thr

    def before_test(self, runner: Runner) -> None:
        """Find the common folder of all images."""
        dataset = runner.test_dataloader.dataset
        paths = [dataset.get_data_info(i).get('img_path') for i in range(len(dataset))]
        folders = {os.path.dirname(os.path.abspath(path)) for path in paths if path}
        self.root = os.path.commonpath(folders) if folders else ''
        if get_world_size() > 1:
            runner.logger.warning(
                'the first process draws its share of the images only; test in one process to draw '
                'all'
            )

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the images of a batch."""
        for i, sample in enumerate(outputs or ()):
            path = sample.get('img_path')
            name = os.path.relpath(path, self.root) if path else f'{batch_idx}_{i}'
            file = os.path.join(self.folder, name)
            file = file if path and cv2.haveImageWriter(file) else f'{file}.png'
            if 'pred_score' in sample:
                picture = network_input(data_batch or {}, i)
                runner.visualizer.visualize_cls(picture, sample, name=name, out_file=file)
                continue
            picture = mmcv.imfrombytes(get(path), channel_order='rgb')
            options = dict(pred_score_thr=self.score_thr) if 'pred_instances' in sample else {}
            runner.visualizer.add_datasample(name, picture, sample, out_file=file, **options)


def network_input(batch: dict, i: int) -> np.ndarray:
    """Return image ``i`` of a batch, (H, W, 3), uint8, RGB, in its first augmentation."""
    inputs = batch['inputs']
    image = inputs[0][i] if isinstance(inputs[0], list | tuple) else inputs[i]
    return np.ascontiguousarray(image.cpu().numpy().astype(np.uint8).transpose(1, 2, 0)[..., ::-1])
