"""Draw the predictions of a test, or those of any images with the library's visualizer."""

import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..type_name import library, type_name
from .draw import TOP, Annotator

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
    return dict(visualizer)


class LibraryAnnotator:
    """Draws as ``Annotator`` with the visualizer of a config or its library.

    Args:
        cfg: The config; its scope must be the default scope.
        metainfo: Classes and palette of the data.
        score_thr: Smallest score of a drawn box.
    """

    def __init__(self, cfg: Config, metainfo: dict, score_thr: float) -> None:
        # Of visualizers of one name mmengine builds only the first.
        options = dict(name=uuid4().hex, vis_backends=None, save_dir=None)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about the missing backend
            self.visualizer = VISUALIZERS.build({**visualizer_config(cfg), **options})
        self.visualizer.dataset_meta = metainfo
        self.score_thr = score_thr
        self.lock = threading.Lock()  # a visualizer holds one picture

    def prediction(self, picture: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Return a picture (H, W, 3), uint8, BGR, with the prediction of its sample."""
        if 'pred_score' in sample:
            best = sample.pred_score.topk(min(TOP, len(sample.pred_score))).indices
            sample = sample.new().set_pred_label(best)
        with self.lock:
            self._draw(picture, sample, draw_gt=False)
            return np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])

    def write_comparison(self, file: str, picture: np.ndarray, sample: BaseDataElement) -> None:
        """Write a picture with the ground truth, if there is one, and the prediction."""
        self._draw(picture, sample, out_file=file)

    def _draw(self, picture: np.ndarray, sample: BaseDataElement, **options: Any) -> None:
        picture = np.ascontiguousarray(picture[..., ::-1])
        if 'pred_score' in sample:
            self.visualizer.visualize_cls(picture, sample, **options)
            return
        if 'pred_instances' in sample:
            options['pred_score_thr'] = self.score_thr
        self.visualizer.add_datasample('', picture, sample, **options)


def make_annotator(
    cfg: Config, metainfo: dict, score_thr: float, draw: str
) -> Annotator | LibraryAnnotator:
    """Return the annotator for the pictures of a model.

    Args:
        cfg: The config of the model.
        metainfo: Classes and palette of the data.
        score_thr: Smallest score of a drawn box.
        draw: ``supervision``, or ``library`` for the visualizer of the config or its library.
    """
    if draw == 'library':
        return LibraryAnnotator(cfg, metainfo, score_thr)
    return Annotator(metainfo.get('classes') or (), metainfo.get('palette'), score_thr)


@HOOKS.register_module()
class ShowHook(Hook):
    """Draw every tested image, with its ground truth and prediction, into a folder.

    Pictures keep the paths of their images below the common folder of all images.

    Args:
        folder: The folder of the pictures.
        score_thr: Smallest score of a drawn box.
        draw: ``supervision`` or ``library``, see ``make_annotator``.
    """

    def __init__(self, folder: str, score_thr: float = 0.3, draw: str = 'supervision') -> None:
        self.folder, self.score_thr, self.draw = folder, score_thr, draw

    def before_test(self, runner: Runner) -> None:
        """Find the common folder of all images, and their classes."""
        dataset = runner.test_dataloader.dataset
        paths = [dataset.get_data_info(i).get('img_path') for i in range(len(dataset))]
        folders = {os.path.dirname(os.path.abspath(path)) for path in paths if path}
        self.root = os.path.commonpath(folders) if folders else ''
        self.annotator = make_annotator(runner.cfg, dataset.metainfo, self.score_thr, self.draw)
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
            else:
                picture = mmcv.imfrombytes(get(path))
            self.annotator.write_comparison(file, picture, sample.cpu())


def network_input(batch: dict, i: int) -> np.ndarray:
    """Return image ``i`` of a batch, (H, W, 3), uint8, BGR, in its first augmentation."""
    inputs = batch['inputs']
    image = inputs[0][i] if isinstance(inputs[0], list | tuple) else inputs[i]
    return np.ascontiguousarray(image.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
