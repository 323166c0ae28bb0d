"""A config's test pipeline for images that are in no data set."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS

from ...checks import record_of_config
from ...errors import UserError
from ...type_name import type_name
from .inputs import read_image, reading

LOADERS = ('test_dataloader', 'val_dataloader')
# What only data sets know; a step that asks for it loads annotations.
ANNOTATIONS = ('instances', 'seg_map_path', 'seg_fields', 'reduce_zero_label', 'label_map')
ANNOTATOR = re.compile('Annotation|Load.*(Label|Mask|GT)')
READER = re.compile('Load|Read|Open|Decode')
# The lossless format in which a decoder gets a frame that is in memory.
FRAME_SUFFIXES = dict(tifffile='.tiff')


def tested_datasets(cfg: Config) -> list[list[ConfigDict]]:
    """Return the data sets that a config tests on, each behind the wrappers around it.

    Those of the validation stand in where there are none.

    Raises:
        UserError: If the config has neither.
    """
    loaders: Any = next((found for name in LOADERS if (found := cfg.get(name))), [])
    paths = [
        path
        for loader in (loaders if isinstance(loaders, list | tuple) else [loaders])
        for path in _unwrapped(loader.get('dataset'))
    ]
    if not paths:
        raise UserError(
            'the config has neither test_dataloader.dataset nor val_dataloader.dataset, whose '
            'pipeline and classes are needed; add one of them'
        )
    return paths


def _unwrapped(node: Any, wrappers: tuple = ()) -> Iterator[list[ConfigDict]]:
    """Yield the data sets within a data set's config or a list of these, wrappers first."""
    if isinstance(node, list | tuple):
        for each in node:
            yield from _unwrapped(each, wrappers)
    elif isinstance(node, Mapping):
        inner = node.get('dataset') or node.get('datasets')
        if inner:
            yield from _unwrapped(inner, (*wrappers, node))
        else:
            yield [*wrappers, node]


def tested_dataset(cfg: Config) -> ConfigDict:
    """Return the first data set that a config tests on, without wrappers around it."""
    return tested_datasets(cfg)[0][-1]


def tested_classes(cfg: Config) -> list[str] | None:
    """Return the classes of the data that a config tests on; None if nothing says them.

    The annotations need not be there.
    """
    return record_of_config(cfg, 'test').classes


def steps_of(path: list[ConfigDict]) -> list:
    """Return the steps that a data set's images go through, those of its wrappers last."""
    return [step for node in reversed(path) for step in node.get('pipeline') or []]


@dataclass
class LoadedImage:
    """An image as a config's step loads it.

    Attributes:
        pixels: The image (H, W) or (H, W, C), whatever the step makes of the file.
        results: What the steps after it get.
        steps: These steps.
    """

    pixels: np.ndarray
    results: dict
    steps: list[Callable]


class TestPipeline:
    """The test pipeline of a config, less what loads annotations.

    Args:
        cfg: The config; its scope must be the default one.

    Raises:
        UserError: If the config has no test pipeline.
    """

    __test__ = False  # pytest takes it for a test

    def __init__(self, cfg: Config) -> None:
        steps = without_annotations(steps_of(tested_datasets(cfg)[0]))
        if not steps:
            raise UserError('the data set that the config tests on has no pipeline; add one')
        self.steps = Compose(steps).transforms
        # Data sets such as CIFAR's have their images in memory, so that no step loads any.
        self.wants_pixels = not any(loads_files(step) for step in self.steps)

    def load(self, image: str | np.ndarray) -> LoadedImage:
        """Load an image as the config's step does.

        Args:
            image: A file, or (H, W, 3), uint8, BGR, which the step gets as a lossless file.

        Raises:
            InputError: If the file cannot be read, or only in part.
            UserError: If no step loads it.
        """
        if self.wants_pixels:
            pixels = read_image(image) if isinstance(image, str) else image
            shape = pixels.shape[:2]
            results = dict(img=pixels, img_path=None, img_id=0, img_shape=shape, ori_shape=shape)
            return LoadedImage(pixels.copy(), results, self.steps)
        if isinstance(image, str):
            with reading(image):
                return self._load(image)
        backends = (getattr(step, 'imdecode_backend', None) for step in self.steps)
        suffix = next((FRAME_SUFFIXES[name] for name in backends if name in FRAME_SUFFIXES), '.bmp')
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f'frame{suffix}')
            cv2.imwrite(path, image)
            return self._load(path)

    def _load(self, path: str) -> LoadedImage:
        results: Any = dict(img_path=path, img_id=0)
        for number, step in enumerate(self.steps, 1):
            results = step(results)
            if results is None:
                raise ValueError(f'{type(step).__name__} gives nothing')
            if 'img' in results:
                # Steps after it may change the image in place.
                return LoadedImage(np.array(results['img']), results, self.steps[number:])
        raise UserError('no step of the test pipeline loads an image; add LoadImageFromFile')

    def pack(self, loaded: LoadedImage) -> dict:
        """Send a loaded image through the other steps; return what a data set would give."""
        results: Any = loaded.results
        for step in loaded.steps:
            try:
                results = step(results)
            except KeyError as error:
                if error.args[0] not in ANNOTATIONS:
                    raise
            if results is None:
                raise UserError(f'{type(step).__name__} of the test pipeline leaves the image out')
        return results


def loads_files(step: Callable) -> bool:
    """Tell, by the names of its class and that's bases, whether a step loads an image's file."""
    names = [kind.__name__ for kind in type(step).mro()]
    return 'LoadImageFromNDArray' not in names and any(map(READER.search, names))


def without_annotations(steps: Any) -> Any:
    """Return steps, or a step with others inside, less what loads annotations.

    None is returned of what then has nothing to do.
    """
    if not isinstance(steps, Mapping):
        kept = [without_annotations(step) if holds_steps(step) else step for step in steps]
        return [s for s in kept if s is not None and not isinstance(s, LoadAnnotations)] or None
    if loads_annotations(steps):
        return None
    rest = dict(steps.items())
    for name, value in rest.items():
        if holds_steps(value):
            rest[name] = without_annotations(value)
    return None if any(rest[name] is None and steps[name] for name in rest) else rest


def holds_steps(value: object) -> bool:
    """Tell whether an argument is the config of something to build, or a list of such."""
    if isinstance(value, list | tuple):
        return any(map(holds_steps, value))
    return isinstance(value, Mapping) and 'type' in value


def loads_annotations(step: Mapping) -> bool:
    """Tell whether the config of a step is that of one that loads annotations."""
    kind = step['type']
    if isinstance(kind, str):
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    inherits = isinstance(kind, type) and issubclass(kind, LoadAnnotations)
    return inherits or bool(ANNOTATOR.search(type_name(step)))
