"""One function from an image to a library's result, whatever file the model comes from."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement

from ...errors import UserError
from ...models import fuse
from ...type_name import scope
from ..accelerate import accelerate
from ..load import build_model
from .exported import ExportedModel, check_precision, is_exported
from .pipeline import LoadedImage, TestPipeline, tested_classes


@dataclass
class Predictor:
    """A model for single images.

    Called with a file, an image (H, W, 3), uint8, BGR, or what ``load`` returned, it gives a
    ``DetDataSample`` with ``pred_instances``, a ``SegDataSample`` with ``pred_sem_seg``, both in
    the size of the image as it was loaded, or a ``DataSample`` with ``pred_score``, on the CPU.

    Attributes:
        pipeline: What loads and prepares images.
        run: The function of what that gives.
    """

    pipeline: TestPipeline
    run: Callable[[dict], BaseDataElement]

    def load(self, image: str | np.ndarray) -> LoadedImage:
        """Load an image, see ``TestPipeline.load``."""
        return self.pipeline.load(image)

    def __call__(self, image: str | np.ndarray | LoadedImage) -> BaseDataElement:
        """Predict an image."""
        loaded = image if isinstance(image, LoadedImage) else self.load(image)
        return self.run(self.pipeline.pack(loaded))


def make_predictor(
    cfg: Config,
    file: str,
    device: str = 'cpu',
    fuse_model: bool = True,
    trust: bool = False,
    fast: bool = False,
    precision: str = 'fp32',
    warn_only: bool = False,
) -> Predictor:
    """Open a model for single images.

    Args:
        cfg: The config; images go through its test pipeline.
        file: A checkpoint, or a file that ``tools/deploy.py`` exported.
        device: Where a checkpoint's model runs; an exported one runs where its runtime does.
        fuse_model: Fuse the model of a checkpoint; what cannot be fused runs as it is, with a
            warning.
        trust: Open a .pt2 file, which runs what is in it.
        fast: Accelerate the model of a checkpoint, see ``mmvanilla.accelerate``.
        precision: Of an exported file, see ``open_model``.
        warn_only: Warn if the file is of another config than this, instead of refusing it.

    Raises:
        CheckpointError: If the checkpoint cannot be read or is not one of this config.
        FileNotFoundError: If there is no such file.
        UserError: If the exported file cannot be opened, the model not be accelerated, or the
            config has no test pipeline, or other classes or preprocessing than the file.
    """
    init_default_scope(scope(cfg))
    pipeline = TestPipeline(cfg)
    if not is_exported(file):
        check_precision(file, precision)
        model = trained(cfg, file, device, fuse_model, fast, warn_only)
    elif fast:
        raise UserError(f'{file!r} is exported and as fast as its runtime; accelerate a checkpoint')
    else:
        preprocessor = cfg.get('data_preprocessor')
        options = (trust, precision, preprocessor, warn_only)
        model = ExportedModel(file, cfg.model, tested_classes(cfg), *options)

    @torch.no_grad()
    def run(packed: dict) -> BaseDataElement:
        return model.test_step(pseudo_collate([packed]))[0].cpu()

    return Predictor(pipeline, run)


def trained(
    cfg: Config, file: str, device: str, fuse_model: bool, fast: bool, warn_only: bool = False
) -> BaseModel:
    """Return the model of a checkpoint."""
    model, _ = build_model(cfg, file, warn_only)
    if fuse_model and not fast:
        try:
            model = fuse(model, neck_and_heads=True)
        except UserError as error:
            print_log(f'the model runs as it is, not fused: {error}', 'current', logging.WARNING)
    model = model.to(device)
    return accelerate(model) if fast else model
