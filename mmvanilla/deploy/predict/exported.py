"""An exported file as a model of OpenMMLab, for runners and single images."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from ...checks import Record, compare, record_of_config, record_of_exported, report
from ...errors import CheckpointError, UserError
from ..export import FORMATS, OpenedModel, classified, open_model, pasted
from ..export.formats import suffix_of


@MODELS.register_module()
class ExportedModel(BaseModel):
    """An exported file of ``tools/deploy.py`` in place of its model.

    Args:
        file: The file, see ``open_model``, or an ``OpenedModel``.
        model: The config of the exported model.
        classes: The classes of the data; None checks nothing.
        trust: Allow .pt2 files, see ``open_model``.
        precision: ``fp32``, ``bf16`` or ``auto``, see ``open_model``.
        data_preprocessor: The config's preprocessor if ``model`` has none; only compared.
        warn_only: Warn about a file of another config instead of refusing it.
        record: The record of the whole config, to compare with that of the file; by default that
            of the other arguments.
        throughput: Let several threads predict at the same time, see ``open_model``.

    Raises:
        FileNotFoundError: If the file does not exist.
        UserError: If the file cannot be opened, or was exported for other classes, preprocessing or
            thresholds.
    """

    def __init__(
        self,
        file: str | OpenedModel,
        model: dict,
        classes: list[str] | None = None,
        trust: bool = False,
        precision: str = 'fp32',
        data_preprocessor: dict | None = None,
        warn_only: bool = False,
        record: dict | None = None,
        throughput: bool = False,
    ) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(0))  # DDP refuses a model without parameters
        options = (trust, precision, throughput)
        opened = open_model(file, *options) if isinstance(file, str) else file
        self.opened, self.model_cfg = opened, ConfigDict(model)
        self.file = file if isinstance(file, str) else 'the exported model'
        if record:
            expected = Record.from_dict(record, 'the config')
        else:
            cfg = dict(model=self.model_cfg, data_preprocessor=data_preprocessor)
            expected = record_of_config(cfg)
            expected = replace(expected, classes=classes and list(classes))
        written = record_of_exported(opened.details, f'exported file {self.file!r}')
        report(compare(written, expected, 'exported'), warn_only)

    def forward(
        self, inputs: Tensor | list[Tensor], data_samples: list, mode: str = 'predict'
    ) -> list[BaseDataElement]:
        """Predict images one by one.

        Args:
            inputs: Images (C, H, W), BGR of 0 to 255, of any dtype.
            data_samples: One sample for each image, which gets its result.
            mode: Only ``predict`` is possible.

        Raises:
            CheckpointError: If only features were exported.
            InputError: If the exported model cannot take an image.
            UserError: If another mode is given.
        """
        if mode != 'predict':
            raise UserError(f'{self.file!r} is exported, for predicting only; train a checkpoint')
        return [
            self.predict(self.run(image[None].float().cpu()), sample)
            for image, sample in zip(inputs, data_samples, strict=True)
        ]

    def run(self, image: Tensor) -> dict[str, np.ndarray]:
        """Return the outputs of an image, (1, C, H, W), of a segmentor in its test mode."""
        test_cfg = self.model_cfg.get('test_cfg') or {}
        if test_cfg.get('mode') != 'slide':
            return self.opened(image.numpy())
        from mmseg.models import EncoderDecoder

        def encode_decode(crop: Tensor, metas: list[dict]) -> Tensor:
            outputs = self.opened(crop.numpy())
            if 'logits' not in outputs:
                raise UserError(
                    f"test_cfg.mode is 'slide', which averages logits, but {self.file!r} returns "
                    f'{", ".join(outputs)}; export it without --label-map'
                )
            return torch.from_numpy(outputs['logits'])

        head = self.last_head()
        channels = head.get('out_channels') or head['num_classes']
        model = dict(test_cfg=test_cfg, out_channels=channels, encode_decode=encode_decode)
        logits = EncoderDecoder.slide_inference(SimpleNamespace(**model), image, [{}])
        return dict(logits=logits.numpy())

    def last_head(self) -> dict:
        """Return the config of a segmentor's head, the last one of a cascade."""
        heads = self.model_cfg.get('decode_head') or {}
        return heads[-1] if isinstance(heads, list | tuple) else heads

    def predict(self, outputs: dict[str, np.ndarray], sample: Any) -> BaseDataElement:
        """Add the outputs to a sample, in the size of the original image."""
        if 'boxes' in outputs:
            from mmdet.models.utils import samplelist_boxtype2tensor

            samplelist_boxtype2tensor([sample])  # for drawing, as mmdet's detectors do
            rcnn = (self.model_cfg.get('test_cfg') or {}).get('rcnn') or {}
            scale = np.tile(np.float32(sample.scale_factor), 2)
            outputs = dict(outputs, boxes=outputs['boxes'] / scale)
            outputs = pasted(outputs, sample.ori_shape, rcnn.get('mask_thr_binary', 0.5))
            outputs['bboxes'] = outputs.pop('boxes')
            values = {name: torch.from_numpy(value) for name, value in outputs.items()}
            sample.pred_instances = InstanceData(**values)
        elif 'logits' in outputs and outputs['logits'].ndim == 2:
            scores, labels = classified(outputs['logits'], self.model_cfg.get('head') or {})
            sample.set_pred_score(scores).set_pred_label(labels)
        elif 'logits' in outputs or 'label_map' in outputs:
            align_corners = self.last_head().get('align_corners', False)
            labels = label_map(outputs, sample.ori_shape, align_corners)
            sample.pred_sem_seg = PixelData(data=labels)
        else:
            raise CheckpointError(
                f'{self.file!r} returns {", ".join(outputs)}, expected boxes, logits or labels; '
                'export the whole model, without --features'
            )
        return sample


def exported_config(cfg: Config, file: str, **options: Any) -> dict:
    """Return the config of an ``ExportedModel`` in place of a config's model.

    Args:
        cfg: The config; its record is compared with the record in the file.
        file: The exported file.
        **options: Other arguments of ``ExportedModel``, such as ``trust``.
    """
    record = record_of_config(cfg, 'test').to_dict()
    return dict(type='ExportedModel', file=file, model=cfg.model, record=record, **options)


def is_exported(file: str) -> bool:
    """Return whether a file name has the suffix of an export, before any ``#sha256=HASH``."""
    return suffix_of(file) in FORMATS


def runtime_of(file: str) -> str:
    """Return the name of the runtime for an exported file."""
    return FORMATS[suffix_of(file)].runtime


def check_precision(file: str, precision: str) -> None:
    """Raise a UserError if ``--precision``, for exported files, is given with a checkpoint."""
    if precision != 'fp32':
        raise UserError(
            f'--precision is {precision}, which is for exported files, and {file!r} is none; use '
            '--accelerate, which computes in 16 bit if that is faster'
        )


def label_map(outputs: dict, shape: tuple[int, int], align_corners: bool) -> Tensor:
    """Return the labels (1, H, W) of an exported segmentor in the size of the image."""
    if 'logits' in outputs:
        logits = torch.from_numpy(outputs['logits'])
        logits = F.interpolate(logits, shape, mode='bilinear', align_corners=align_corners)
        return logits.argmax(1)
    labels = torch.from_numpy(outputs['label_map'])
    return F.interpolate(labels[None].double(), shape, mode='nearest-exact')[0].long()
