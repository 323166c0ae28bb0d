"""A config's test pipeline for images outside data sets."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS
from PIL import Image

from ...checks import record_of_config
from ...errors import UserError
from ...type_name import type_name
from .inputs import as_bgr, read_image, reading

LOADERS = ('test_dataloader', 'val_dataloader')
# Keys that only data sets provide; a step that reads one loads annotations.
ANNOTATIONS = ('instances', 'seg_map_path', 'seg_fields', 'reduce_zero_label', 'label_map')
ANNOTATOR = re.compile('Annotation|Load.*(Label|Mask|GT)')
READER = re.compile('Load|Read|Open|Decode')


def tested_datasets(cfg: Config) -> list[list[ConfigDict]]:
    """Return a config's test data sets, else its validation data sets, each after its wrappers.

    Raises:
        UserError: If the config has neither.
    """
    loaders: Any = next((found for name in LOADERS if (found := cfg.get(name))), [])
    paths = [path[1:] for path in _dataset_paths(loaders) if path[1:]]  # the loader is first
    if not paths:
        raise UserError(
            'the config has neither test_dataloader.dataset nor val_dataloader.dataset; add '
            'one, for its pipeline and classes'
        )
    return paths


def _dataset_paths(node: Any, wrappers: tuple = ()) -> Iterator[list[ConfigDict]]:
    """Yield each data set in a config or list of configs, after the wrappers around it."""
    if isinstance(node, list | tuple):
        for each in node:
            yield from _dataset_paths(each, wrappers)
    elif isinstance(node, Mapping):
        inner = node.get('dataset') or node.get('datasets')
        if inner:
            yield from _dataset_paths(inner, (*wrappers, node))
        else:
            yield [*wrappers, node]


def tested_dataset(cfg: Config) -> ConfigDict:
    """Return a config's first test data set, without its wrappers."""
    return tested_datasets(cfg)[0][-1]


def tested_classes(cfg: Config) -> list[str] | None:
    """Return the classes of a config's test data, even without annotations; None if unknown."""
    return record_of_config(cfg, 'test').classes


def steps_of(path: list[ConfigDict]) -> list:
    """Return the pipeline steps of a data set, then those of its wrappers."""
    return [step for node in reversed(path) for step in node.get('pipeline') or []]


ImageLike = str | os.PathLike | np.ndarray | Image.Image


@dataclass
class LoadedImage:
    """An image after the loading step of a pipeline.

    Attributes:
        pixels: The image (H, W) or (H, W, C), of any dtype.
        results: The input of the remaining steps.
        steps: The remaining steps.
    """

    pixels: np.ndarray
    results: dict
    steps: list[Callable]


class TestPipeline:
    """The test pipeline of a config, without the loading of annotations.

    Args:
        cfg: The config; its scope must be the default scope.

    Raises:
        UserError: If the config has no test pipeline.
    """

    __test__ = False  # not a test of pytest

    def __init__(self, cfg: Config) -> None:
        steps = without_annotations(steps_of(tested_datasets(cfg)[0]))
        if not steps:
            raise UserError('the data set that the config tests on has no pipeline; add one')
        self.steps = Compose(steps).transforms
        # Some data sets, such as CIFAR, have their images in memory; no step loads them.
        self.loader = next((step for step in self.steps if loads_files(step)), None)

    def load(self, image: ImageLike) -> LoadedImage:
        """Load a file by the config's loading step, or put an image in its place.

        Args:
            image: A file, a PIL image or an array, see ``as_bgr``. A loading step that is not for
                8-bit pictures is replaced by any array.

        Raises:
            InputError: If the file cannot be read as a whole, or the image is not as ``as_bgr``
                expects it.
            UserError: If no step loads images.
        """
        if not isinstance(image, str | os.PathLike):
            return self._from_memory(image)
        path = os.fspath(image)
        if self.loader is None:
            return self._from_memory(read_image(path))
        with reading(path):
            return self._from_file(path)

    def _from_memory(self, image: Any) -> LoadedImage:
        """Take an image without the steps that load, but as they would return it."""
        color_type = getattr(self.loader, 'color_type', 'color' if self.loader is None else '')
        if color_type in ('', 'unchanged') and isinstance(image, np.ndarray):
            pixels = image
        else:
            pixels = as_bgr(image)
            if color_type.startswith('grayscale'):
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        if getattr(self.loader, 'to_float32', False):
            pixels = pixels.astype(np.float32)
        shape = pixels.shape[:2]
        results = dict(img=pixels, img_path=None, img_id=0, img_shape=shape, ori_shape=shape)
        steps = [step for step in self.steps if not loads_files(step)]
        return LoadedImage(pixels.copy(), results, steps)  # steps may change the image in place

    def _from_file(self, path: str) -> LoadedImage:
        results: Any = dict(img_path=path, img_id=0)
        for number, step in enumerate(self.steps, 1):
            results = step(results)
            if results is None:
                raise ValueError(f'{type(step).__name__} returns nothing')
            if 'img' in results:
                pixels = np.array(results['img'])  # later steps may change the image in place
                return LoadedImage(pixels, results, self.steps[number:])
        raise UserError('no step of the test pipeline loads an image; add LoadImageFromFile')

    def pack(self, loaded: LoadedImage) -> dict:
        """Send a loaded image through the remaining steps; return the item of a data set.

        A step that asks for annotations is left out.
        """
        results: Any = dict(loaded.results)
        for step in loaded.steps:
            try:
                results = step(results)
            except KeyError as error:
                if error.args[0] not in ANNOTATIONS:
                    raise
                # Again from the start: it may have changed the image before it failed.
                unchanged = dict(loaded.results, img=loaded.pixels.copy())
                others = [each for each in loaded.steps if each is not step]
                return self.pack(LoadedImage(loaded.pixels, unchanged, others))
            if results is None:
                raise UserError(f'{type(step).__name__} of the test pipeline leaves the image out')
        return results


def loads_files(step: Callable) -> bool:
    """Return whether a step loads an image file, by the names of its class and base classes."""
    names = [kind.__name__ for kind in type(step).mro()]
    return 'LoadImageFromNDArray' not in names and any(map(READER.search, names))


def without_annotations(steps: Any) -> Any:
    """Return a step or steps without those that load annotations; None if nothing is left."""
    if not isinstance(steps, Mapping):
        found = [without_annotations(step) if holds_steps(step) else step for step in steps]
        return [s for s in found if s is not None and not isinstance(s, LoadAnnotations)] or None
    if loads_annotations(steps):
        return None
    rest = dict(steps.items())
    for name, value in rest.items():
        if holds_steps(value):
            rest[name] = without_annotations(value)
    return None if any(rest[name] is None and steps[name] for name in rest) else rest


def holds_steps(value: object) -> bool:
    """Return whether an argument is the config of an object, or a list with one."""
    if isinstance(value, list | tuple):
        return any(map(holds_steps, value))
    return isinstance(value, Mapping) and 'type' in value


def loads_annotations(step: Mapping) -> bool:
    """Return whether the config of a step loads annotations."""
    kind = step['type']
    if isinstance(kind, str):
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    inherits = isinstance(kind, type) and issubclass(kind, LoadAnnotations)
    return inherits or bool(ANNOTATOR.search(type_name(step)))
