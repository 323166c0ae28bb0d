"""One function from an image to a library's result, whatever file the model comes from."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from ...errors import CheckpointError, UserError
from ...models import fuse
from ...safe_load.digest import split_digest
from ...type_name import scope
from ..accelerate import accelerate
from ..export import FORMATS, classified, open_model, pasted
from ..load import build_model
from .pipeline import LoadedImage, TestPipeline


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

    Raises:
        CheckpointError: If the checkpoint cannot be read or is not one of this config.
        FileNotFoundError: If there is no such file.
        UserError: If the exported file cannot be opened, the model not be accelerated, or the
            config has no test pipeline.
    """
    init_default_scope(scope(cfg))
    pipeline = TestPipeline(cfg)
    if os.path.splitext(split_digest(file)[0])[1] in FORMATS:
        if fast:
            raise UserError(
                f'{file!r} is exported and as fast as its runtime; accelerate a checkpoint'
            )
        return Predictor(pipeline, exported(cfg, file, trust))
    return Predictor(pipeline, trained(cfg, file, device, fuse_model, fast))


def trained(cfg: Config, file: str, device: str, fuse_model: bool, fast: bool) -> Callable:
    """Return the function of a checkpoint."""
    model, _ = build_model(cfg, file)
    if fuse_model and not fast:
        try:
            model = fuse(model, neck_and_heads=True)
        except UserError as error:
            print_log(f'the model runs as it is, not fused: {error}', 'current', logging.WARNING)
    model = model.to(device)
    if fast:
        accelerate(model)

    @torch.no_grad()
    def predict(packed: dict) -> BaseDataElement:
        return model.test_step(pseudo_collate([packed]))[0].cpu()

    return predict


def exported(cfg: Config, file: str, trust: bool) -> Callable:
    """Return the function of an exported file."""
    run = open_model(file, trust)
    heads = cfg.model.get('decode_head') or {}  # of a cascade a list, of which the last decides
    head = heads[-1] if isinstance(heads, list | tuple) else heads
    align_corners = head.get('align_corners', False)
    rcnn = (cfg.model.get('test_cfg') or {}).get('rcnn') or {}

    def predict(packed: dict) -> BaseDataElement:
        sample = packed['data_samples']
        outputs = run(packed['inputs'][None].float().numpy())
        if 'boxes' in outputs:
            scale = np.tile(np.float32(sample.scale_factor), 2)
            outputs = dict(outputs, boxes=outputs['boxes'] / scale)
            outputs = pasted(outputs, sample.ori_shape, rcnn.get('mask_thr_binary', 0.5))
            outputs['bboxes'] = outputs.pop('boxes')
            values = {name: torch.from_numpy(value) for name, value in outputs.items()}
            sample.pred_instances = InstanceData(**values)
        elif 'logits' in outputs and outputs['logits'].ndim == 2:
            scores, labels = classified(outputs['logits'], cfg.model.get('head') or {})
            sample.set_pred_score(scores).set_pred_label(labels)
        elif 'logits' in outputs or 'label_map' in outputs:
            labels = label_map(outputs, sample.ori_shape, align_corners)
            sample.pred_sem_seg = PixelData(data=labels)
        else:
            raise CheckpointError(
                f'{file!r} gives {", ".join(outputs)}, expected boxes, logits or a label map; '
                'export the whole model, without --features'
            )
        return sample

    return predict


def label_map(outputs: dict, shape: tuple[int, int], align_corners: bool) -> torch.Tensor:
    """Return the labels (1, H, W) of an exported segmentor, in the image's own size."""
    if 'logits' in outputs:
        logits = torch.from_numpy(outputs['logits'])
        logits = F.interpolate(logits, shape, mode='bilinear', align_corners=align_corners)
        return logits.argmax(1)
    labels = torch.from_numpy(outputs['label_map'])
    return F.interpolate(labels[None].double(), shape, mode='nearest-exact')[0].long()
