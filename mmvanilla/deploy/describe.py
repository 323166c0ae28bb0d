"""Describe an exported model, so that its file is understood without its config."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config

from ..errors import UserError
from ..type_name import type_name
from .export.pixels import ImageFunction
from .predict.pipeline import TestPipeline, steps_of, tested_datasets, without_annotations

PARTS = ('resize', 'crop', 'pad')  # in this order
AROUND = ('Load', 'Pack')  # steps before and after the preparation of the image
# Heights and widths of images to try the rules on.
PROBES = ((61, 97), (130, 71), (64, 64), (375, 500), (640, 427))


def describe(function: ImageFunction, cfg: Config) -> dict[str, Any]:
    """Return the metadata that follow from a model and its config.

    Args:
        function: The result of ``exportable``.
        cfg: The config with the test pipeline.

    Returns:
        JSON types by name; docs/exported_files.md lists them.
    """
    channels = {1: 'grey', 3: 'BGR'}.get(function.channels, 'as the pipeline returns them')
    number = 'batch' if function.batched else '1'
    details = dict(
        task=function.task,
        input=dict(
            name='image',
            shape=f'{number} {function.channels} height width',
            dtype='float32',
            channels=channels,
            range=[0, 255],
            min_size=function.min_size,
        ),
        **describe_pipeline(cfg),
        outputs=function.outputs,
        thresholds=function.thresholds,
    )
    if function.task == 'semantic segmentation':
        test_cfg = cfg.model.get('test_cfg') or {}
        slides = test_cfg.get('mode') == 'slide'
        sizes = {key: list(test_cfg[key]) for key in ('crop_size', 'stride') if slides}
        details['slide'] = dict(sizes, rule='slide' if slides else 'none')
    return details


def describe_pipeline(cfg: Config) -> dict[str, Any]:
    """Return how a test pipeline prepares an image: its steps as texts, and rules with numbers.

    The rules are tried on images; all are ``unknown`` if ``prepare`` returns other pixels than the
    pipeline, if a step is of no known type, or if the config has no test pipeline for files.
    """
    rules: dict[str, Any] = {part: dict(rule='none') for part in PARTS}
    known, texts = False, []
    with suppress(UserError):  # no pipeline, or no step that loads images
        pipeline = TestPipeline(cfg)
        steps = without_annotations(steps_of(tested_datasets(cfg)[0]))
        texts = [text_of(step) for step in steps if not type_name(step).startswith(AROUND)]
        inner = [step for step in pipeline.steps if not type(step).__name__.startswith(AROUND)]
        found = [rule_of(step) for step in inner]
        for rule in found:
            rules |= rule
        known = all(found) and all(reproduces(pipeline, rules, *size) for size in PROBES)
    if not known:
        rules = {part: dict(rule='unknown') for part in PARTS}
    return dict(rules, pipeline=texts)


def text_of(step: Mapping) -> str:
    """Return the config of a step as a call."""
    arguments = (f'{key}={value!r}' for key, value in step.items() if key != 'type')
    return f'{type_name(step)}({", ".join(arguments)})'


def rule_of(step: Any) -> dict[str, dict]:
    """Return the rule of a step of mmdet, mmseg or mmpretrain under its part; {} if unknown."""
    kind = type(step).__name__
    if kind == 'Resize' and step.scale:
        return resize_rule('keep_ratio' if step.keep_ratio else 'exact', step.scale, step)
    if kind == 'ResizeShortestEdge' and step.max_size:
        return resize_rule('shortest_edge', (step.max_size, np.min(step.scale)), step.resize)
    if kind == 'ResizeEdge' and step.edge == 'short':
        return resize_rule('short_edge', (step.scale,), step)
    if kind == 'CenterCrop' and not step.auto_pad:
        return dict(crop=dict(rule='center', size=list(step.crop_size)))
    if kind == 'Pad' and step.padding_mode == 'constant':
        value = np.atleast_1d(step.pad_val.get('img', 0)).tolist()
        if step.size:
            return dict(pad=dict(rule='size', size=list(step.size), value=value))
        square, divisor = step.pad_to_square, step.size_divisor or 1
        rule = 'square' if square else 'divisor'
        return dict(pad=dict(rule=rule, divisor=divisor, value=value))
    return {}


def resize_rule(rule: str, scale: tuple, step: Any) -> dict[str, dict]:
    """Return the rule of a step that resizes."""
    if not all(0 < number < np.inf for number in scale):  # a side is left open
        return {}
    numbers = [int(number) for number in scale]
    how = dict(interpolation=step.interpolation, backend=step.backend)
    return dict(resize=dict(rule=rule, scale=numbers, **how))


def reproduces(pipeline: TestPipeline, rules: Mapping, height: int, width: int) -> bool:
    """Return whether the rules return the pixels of a pipeline for an image of noise, BGR."""
    noise = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    loaded = pipeline.load(noise)
    pixels = loaded.pixels.reshape(height, width, -1)
    if pixels.shape == noise.shape and not np.array_equal(pixels, noise):  # loaded as RGB
        return False
    found = pipeline.pack(loaded)['inputs']
    return np.array_equal(found, prepare(pixels, rules).transpose(2, 0, 1))


def prepare(image: np.ndarray, rules: Mapping) -> np.ndarray:
    """Resize, crop and pad an image (H, W, C) by the rules of ``describe_pipeline``."""
    resize, crop, pad = (rules[part] for part in PARTS)
    channels = image.shape[2]
    if resize['rule'] != 'none':
        size = resized(image.shape[1], image.shape[0], resize)
        how = resize['interpolation'], resize['backend']
        image = mmcv.imresize(image, size, interpolation=how[0], backend=how[1])
    if crop['rule'] != 'none':
        width, height = crop['size']
        x, y = (max(0, round((image.shape[1 - i] - crop['size'][i]) / 2)) for i in (0, 1))
        image = image[y : y + height, x : x + width]
    image = image.reshape(*image.shape[:2], channels)  # OpenCV drops a single channel
    if pad['rule'] != 'none':
        height, width = image.shape[:2]
        size = pad.get('size', [max(height, width)] * 2 if pad['rule'] == 'square' else None)
        divisor = pad.get('divisor', 1)
        right, below = (
            max(0, -(-side // divisor) * divisor - has)
            for side, has in zip(size or (width, height), (width, height), strict=True)
        )
        image = np.pad(image, ((0, below), (0, right), (0, 0)))
        image[height:] = image[:, width:] = pad['value']
    return image


def resized(width: int, height: int, resize: Mapping) -> tuple[int, int]:
    """Return width and height after resizing by a rule."""
    scale = tuple(resize['scale'])
    short, long = sorted((width, height))
    if resize['rule'] == 'keep_ratio':
        factor = min(max(scale) / long, min(scale) / short)
        return int(width * factor + 0.5), int(height * factor + 0.5)
    if resize['rule'] == 'shortest_edge':  # rounded twice
        target = resized(width, height, dict(resize, rule='keep_ratio'))
        return resized(width, height, dict(rule='keep_ratio', scale=target))
    if resize['rule'] == 'short_edge':
        other = int(scale[0] * long / short)
        return (scale[0], other) if width < height else (other, scale[0])
    return scale
