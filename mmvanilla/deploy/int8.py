"""Exporting a model in 8 bits: calibrated on training images, kept if it is accurate enough."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console
from rich.table import Column, Table

from ..errors import UserError
from ..type_name import scope
from .evaluate import NothingMeasured, evaluate
from .export import OpenedModel, write_model
from .export.formats import need, write_onnx
from .export.layers import Layer, compare_layers
from .export.pixels import ImageFunction
from .export.quantize import quantize
from .predict import ExportedModel

CALIBRATION = 300  # images, NNCF's own default
COMPARED = 2  # images on which layers are compared
CPU = '/proc/cpuinfo'
KEPT = (0, 2, 4, 8, 16)  # how many layers stay in floating point, tried in turn


class AccuracyDrop(UserError):
    """A model that lost more by quantization than it may."""


@dataclass
class Accuracy:
    """How a quantized model is judged.

    Attributes:
        cfg: The config, whose validation data it is tested on.
        model: The model to compare with, fused.
        images: How many of the first images to test on; None takes all.
        max_drop: By how much its worst metric, of 0 to 1, may be lower.
    """

    cfg: Config
    model: BaseModel
    images: int | None = None
    max_drop: float = 0.01


def export_int8(
    function: ImageFunction,
    files: list[str],
    cfg: Config,
    calibrate: int | None,
    accuracy: Accuracy | None,
    console: Console,
    **details: Any,
) -> None:
    """Quantize a model and write it to files of one or more formats.

    Everything with weights is quantized first. Where that costs too much, the layers that add most
    to the error stay in floating point, more and more of them.

    Args:
        function: What ``exportable`` returns.
        files: Where to, .onnx or .xml.
        cfg: The config, whose training data are there.
        calibrate: On how many of them, see ``calibration_images``.
        accuracy: How it is judged; None keeps it whatever it is.
        console: Where progress and the figures are shown.
        **details: What the files are to tell, see ``write_model``.

    Raises:
        UserError: If a package or images are missing, or the accuracy falls too low.
    """
    need('nncf', 'onnx', 'openvino')
    if not has_vnni():
        console.print(
            'this processor has no VNNI, so that 8 bits will hardly be faster here than 32'
        )
    images = calibration_images(cfg, calibrate)
    console.print(f'calibrated on {len(images)} training images')
    example = torch.from_numpy(images[0])
    with tempfile.TemporaryDirectory() as folder:
        exact, eight = (os.path.join(folder, f'{name}.onnx') for name in ('exact', 'eight'))
        write_onnx(function, example, exact, details)
        expected = {}
        if accuracy:
            expected = evaluate(accuracy.cfg, accuracy.model, accuracy.images, console)
            check_measured(expected)
        layers: list[Layer] = []
        for number in KEPT:
            worst = sorted(layers, key=lambda layer: -np.nan_to_num(layer.added))[:number]
            shutil.copy(exact, eight)
            quantize(eight, images, [node for layer in worst for node in layer.nodes])
            if not layers:
                layers = compare_layers(exact, eight, images[:COMPARED])
                print_layers(layers, console)
            if worst:
                names = ', '.join(layer.name for layer in worst)
                console.print(f'kept in floating point: {names}')
            try:
                for file in files:
                    check = judge(accuracy, expected, file, console)
                    write_model(function, example, file, check, eight, **details)
                return
            except AccuracyDrop as drop:
                if number == KEPT[-1] or number >= len(layers):
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
        f'in floating point {figures}, so that no loss by 8 bits could be seen; take validation '
        'images with objects and a trained model, or give --no-check'
    )


def judge(
    accuracy: Accuracy | None, expected: dict[str, float], file: str, console: Console
) -> Callable[[OpenedModel], None]:
    """Return what tests a written model and raises an AccuracyDrop where it is not to be kept."""

    def check(written: OpenedModel) -> None:
        if accuracy is None:
            return
        exported = ExportedModel(written, accuracy.cfg.model)
        found = dict.fromkeys(expected, 0.0)
        with suppress(NothingMeasured):  # what finds no object has no AP
            found |= evaluate(accuracy.cfg, exported, accuracy.images, console)
        figures = ', '.join(f'{n} {found[n]:.4f} of {expected[n]:.4f}' for n in expected)
        # Metrics have a few decimals, which a difference of floats blurs: 0.336 - 0.326 > 0.01.
        drop = round(max(expected[name] - found[name] for name in expected), 6)
        if not drop <= accuracy.max_drop:  # nan included
            raise AccuracyDrop(
                f'{file!r} is not written: in 8 bits {figures}, which is {drop:.4f} less, and '
                f'--max-drop is {accuracy.max_drop:g}; train on, or allow more'
            )
        console.print(f'{file}: {figures}')

    return check


def calibration_images(cfg: Config, number: int | None) -> list[np.ndarray]:
    """Return images of a config's training data as its pipeline makes them, chosen at random.

    Args:
        cfg: The config, whose data are there.
        number: How many; None takes 300, or all where there are fewer.

    Returns:
        Images (1, C, H, W), float32, BGR of 0 to 255.

    Raises:
        UserError: If there are no training data, or fewer images than asked for.
    """
    if not cfg.get('train_dataloader'):
        raise UserError(
            '8 bits are calibrated on training images, and the config has no train_dataloader; '
            'add one'
        )
    init_default_scope(scope(cfg))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if number is not None and len(dataset) < number:
        raise UserError(
            f'--calibrate is {number}, and the training data have {len(dataset)} images; ask for '
            'at most as many'
        )
    number = min(number or CALIBRATION, len(dataset))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return [dataset[i]['inputs'][None].float().numpy() for i in order[:number].tolist()]


def has_vnni() -> bool:
    """Tell whether this processor multiplies bytes; True where nothing tells."""
    with suppress(OSError):
        return bool(re.search(r'\b(avx512_vnni|avx_vnni|amx_int8)\b', Path(CPU).read_text()))
    return True


def print_layers(layers: list[Layer], console: Console) -> None:
    """Print what quantization costs and gains, layer by layer."""
    columns = ('error', 'added', 'fp32, ms', '8 bits, ms')
    table = Table(
        Column('layer', overflow='fold'),
        *columns,
        title='relative error up to a layer, and its time',
    )
    for layer in layers:
        times = (f'{ms:.2f}' for ms in layer.times)
        errors = (f'{e:.2%}' if np.isfinite(e) else '' for e in (layer.error, layer.added))
        table.add_row(layer.name, *errors, *times)
    console.print(table)
