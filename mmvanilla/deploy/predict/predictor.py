"""Predict images with a checkpoint or an exported file."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement

from ...errors import UserError
from ...models import fuse
from ...type_name import scope
from ..accelerate import accelerate
from ..export.formats import STREAMS
from ..load import build_model
from .exported import check_precision, exported_config, is_exported
from .pipeline import ImageLike, LoadedImage, TestPipeline


@dataclass
class Predictor:
    """A model for images.

    A call with an image, or the result of ``load``, returns a ``DetDataSample`` with
    ``pred_instances``, a ``SegDataSample`` with ``pred_sem_seg``, both in the size of the loaded
    image, or a ``DataSample`` with ``pred_score``, on the CPU.

    Attributes:
        pipeline: Loads and prepares images.
        run: Maps a batch of prepared images to their results.
        parallel: How many threads may call ``run`` at the same time.
    """

    pipeline: TestPipeline
    run: Callable[[list[dict]], list[BaseDataElement]]
    parallel: int = 1

    def load(self, image: ImageLike) -> LoadedImage:
        """Load a file, an array or a PIL image, see ``TestPipeline.load``."""
        return self.pipeline.load(image)

    def __call__(self, image: ImageLike | LoadedImage) -> BaseDataElement:
        """Predict an image."""
        loaded = image if isinstance(image, LoadedImage) else self.load(image)
        return self.run([self.pipeline.pack(loaded)])[0]


def make_predictor(
    cfg: Config,
    file: str,
    device: str = 'cpu',
    fuse_model: bool = True,
    trust: bool = False,
    fast: bool = False,
    precision: str = 'fp32',
    warn_only: bool = False,
    throughput: bool = False,
) -> Predictor:
    """Open a model for images.

    Args:
        cfg: The config with the test pipeline.
        file: A checkpoint, or an exported file of ``tools/deploy.py``.
        device: The device for a checkpoint; exported files run on their runtime's device.
        fuse_model: Fuse a checkpoint's model; if that is impossible, warn and run it unfused.
        trust: Allow .pt2 files, whose code runs when they are opened.
        fast: Accelerate a checkpoint's model, see ``mmvanilla.accelerate``.
        precision: The precision of an exported file, see ``open_model``.
        warn_only: Warn about a file of another config instead of refusing it.
        throughput: Let several threads run the model on a CPU, each with some of the cores, so that
            many images take less time and one image more; see ``Predictor.parallel``.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit the config.
        FileNotFoundError: If the file does not exist.
        UserError: If the exported file cannot be opened, the model cannot be accelerated, or the
            config has no test pipeline, or other classes or preprocessing than the file.
    """
    init_default_scope(scope(cfg))
    pipeline = TestPipeline(cfg)
    model: BaseModel
    parallel = 1
    if not is_exported(file):
        check_precision(file, precision)
        model = trained(cfg, file, device, fuse_model, fast, warn_only)
        if throughput and not fast and torch.device(device).type == 'cpu':
            parallel = min(torch.get_num_threads(), STREAMS)
    elif fast:
        raise UserError(f'{file!r} is exported and as fast as its runtime; accelerate a checkpoint')
    else:
        options = dict(trust=trust, precision=precision, warn_only=warn_only)
        model = MODELS.build(exported_config(cfg, file, throughput=throughput, **options))
        parallel = model.opened.parallel

    @torch.no_grad()
    def run(packed: list[dict]) -> list[BaseDataElement]:
        return [sample.cpu() for sample in model.test_step(pseudo_collate(packed))]

    return Predictor(pipeline, run, parallel)


def trained(
    cfg: Config, file: str, device: str, fuse_model: bool, fast: bool, warn_only: bool = False
) -> BaseModel:
    """Return the model of a checkpoint, fused or accelerated, on a device."""
    model, _ = build_model(cfg, file, warn_only)
    if fuse_model and not fast:
        try:
            model = fuse(model, neck_and_heads=True)
        except UserError as error:
            print_log(f'the model is not fused: {error}', 'current', logging.WARNING)
    model = model.to(device)
    return accelerate(model) if fast else model
