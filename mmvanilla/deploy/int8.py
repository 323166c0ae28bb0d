"""Export a model in 8 bits: calibrate on training images, check the accuracy, keep what passes."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console

from ..checks import seed_all
from ..errors import UserError
from ..type_name import scope
from .accelerate.low_precision import cpu_flags
from .evaluate import NothingMeasured, evaluate
from .export import OpenedModel
from .export.formats import convert_onnx, need, write_onnx
from .export.layers import Layer, compare_layers
from .export.pixels import ImageFunction
from .export.quantize import quantize
from .predict import ExportedModel

CALIBRATION = 300  # images, NNCF's default
FLOAT_LAYERS = (0, 2, 4, 8, 16)  # numbers of layers in floating point, tried in turn


class AccuracyDrop(UserError):
    """A quantized model that lost more accuracy than allowed."""


@dataclass
class Accuracy:
    """How the accuracy of a quantized model is checked.

    Attributes:
        cfg: The config with the validation data.
        model: The fused model in floating point.
        images: Number of validation images, the first ones; None uses all.
        max_drop: Largest allowed drop of a metric between 0 and 1.
        warn_only: Warn if the evaluator's annotation file is not that of the data set.
    """

    cfg: Config
    model: BaseModel
    images: int | None = None
    max_drop: float = 0.01
    warn_only: bool = False

    def measure(self, model: BaseModel, console: Console) -> dict[str, float]:
        """Return the main metrics of a model, see ``evaluate``."""
        return evaluate(self.cfg, model, self.images, console, self.warn_only)


def export_int8(
    function: ImageFunction,
    files: list[str],
    cfg: Config,
    calibrate: int | None,
    accuracy: Accuracy | None,
    console: Console,
    **details: Any,
) -> None:
    """Quantize a model and write it to one or more files.

    All layers with weights are quantized first. While the accuracy is too low, more and more layers
    stay in floating point, those that add most to the error. NNCF's own accuracy control ranks
    layers by the outputs of single images, and a detector's number of boxes varies.

    Args:
        function: The result of ``exportable``.
        files: The .onnx and .xml files to write.
        cfg: The config with the training data.
        calibrate: Number of calibration images, see ``CalibrationImages``.
        accuracy: How the accuracy is checked; None skips the check.
        console: For progress and figures.
        **details: Metadata of the files, see ``write_model``.

    Raises:
        UserError: If a package or images are missing, or the accuracy falls too low.
    """
    need('nncf', 'onnx', 'openvino')
    if not has_vnni():
        console.print('this processor has no VNNI; 8 bits are hardly faster here than 32')
    images = CalibrationImages(cfg, calibrate)
    console.print(f'calibrated on {len(images)} training images')
    with tempfile.TemporaryDirectory() as folder:
        exact, quantized = (os.path.join(folder, f'{name}.onnx') for name in ('fp32', 'int8'))
        write_onnx(function, torch.from_numpy(next(iter(images))), exact, details)
        expected = {}
        if accuracy:
            expected = accuracy.measure(accuracy.model, console)
            check_measured(expected)
        layers: list[Layer] = []
        for number in FLOAT_LAYERS:
            worst = sorted(layers, key=lambda layer: -np.nan_to_num(layer.added))[:number]
            shutil.copy(exact, quantized)
            quantize(quantized, images, [node for layer in worst for node in layer.nodes])
            if worst:
                names = ', '.join(layer.name for layer in worst)
                console.print(f'these layers stay in floating point: {names}')
            try:
                for file in files:
                    check = partial(check_accuracy, accuracy, expected, file, console)
                    convert_onnx(quantized, file, check)
                return
            except AccuracyDrop as drop:
                layers = layers or compare_layers(exact, quantized, images)
                if number == FLOAT_LAYERS[-1] or number >= len(layers):
                    raise
                console.print(str(drop))


def check_measured(expected: dict[str, float]) -> None:
    """Check that there is an accuracy to lose.

    Raises:
        UserError: If a metric is negative or NaN, as without objects, or all are 0.
    """
    if all(value >= 0 for value in expected.values()) and any(expected.values()):
        return
    figures = ', '.join(f'{name} is {value:g}' for name, value in expected.items())
    raise UserError(
        f'in floating point {figures}, so 8 bits could lose nothing; use validation images with '
        'objects and a trained model, or give --no-check'
    )


def check_accuracy(
    accuracy: Accuracy | None,
    expected: dict[str, float],
    file: str,
    console: Console,
    written: OpenedModel,
) -> None:
    """Test a written model.

    Raises:
        AccuracyDrop: If a metric falls by more than ``max_drop`` below the expected value.
    """
    if accuracy is None:
        return
    found = dict.fromkeys(expected, 0.0)
    with suppress(NothingMeasured):  # without any detection there is no AP
        found |= accuracy.measure(ExportedModel(written, accuracy.cfg.model), console)
    figures = ', '.join(f'{n} {found[n]:.4f} of {expected[n]:.4f}' for n in expected)
    # Metrics have a few decimals, but 0.336 - 0.326 > 0.01 in floating point.
    drop = round(max(expected[name] - found[name] for name in expected), 6)
    if not drop <= accuracy.max_drop:  # NaN is refused, too
        raise AccuracyDrop(
            f'{file!r} is not written: in 8 bits {figures}, which is {drop:.4f} less, and '
            f'--max-drop is {accuracy.max_drop:g}; train on, or allow more'
        )
    console.print(f'{file}: {figures}')


class CalibrationImages:
    """Random images of a config's training data, read when they are needed.

    Images are float32 (1, C, H, W), BGR of 0 to 255, as the training pipeline returns them, and the
    same in every pass.

    Args:
        cfg: The config.
        number: How many images; None takes 300, or all of fewer.

    Raises:
        UserError: If there are no training data, or too few images.
    """

    def __init__(self, cfg: Config, number: int | None) -> None:
        if not cfg.get('train_dataloader'):
            raise UserError(
                'the config has no train_dataloader; 8 bits are calibrated on training images; '
                'add one'
            )
        init_default_scope(scope(cfg))
        self.dataset = DATASETS.build(cfg.train_dataloader.dataset)
        total = len(self.dataset)
        if number is not None and total < number:
            raise UserError(
                f'--calibrate is {number}, and the training data have {total} images; ask for at '
                'most as many'
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
        self.indices = order[: number or CALIBRATION].tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in self.indices:
            seed_all(index)  # the pipeline may draw random numbers
            yield self.dataset[index]['inputs'][None].float().numpy()


def has_vnni() -> bool:
    """Return whether this CPU multiplies bytes; True if its instructions are unknown."""
    flags = cpu_flags()
    return not flags or bool(flags & {'avx512_vnni', 'avx_vnni', 'amx_int8'})
