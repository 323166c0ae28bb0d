"""Items of a data set: seeded draws, and errors that name the file and the step."""

import os
import random
from contextlib import suppress
from traceback import walk_tb
from typing import Any, NamedTuple

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch.utils.data import Dataset, get_worker_info

from ..errors import InputError, sentence
from .files import ADVICE, check_image, check_label_map, compare_size

LABEL_MAPS = 'mmseg.datasets.transforms.loading', 'LoadAnnotations'


def seed_all(*words: int) -> None:
    """Seed ``random``, ``numpy.random`` and torch from integers of at least 0."""
    state = np.random.SeedSequence(words).generate_state(10)
    random.seed(state[:4].tobytes())
    np.random.seed(state[4:8])
    seed = int(state[8]) << 32 | int(state[9])
    if get_worker_info() is None:
        torch.manual_seed(seed)
    else:  # seeding devices takes 0.3 ms, and a worker uses none
        torch.default_generator.manual_seed(seed)


class Draw(NamedTuple):
    """The index of an item, and the words of its seed after the run's seed.

    The words are the epoch, the rank, the index, and how often the epoch drew the index before.
    """

    index: Any
    words: tuple[int, ...]


class Items(Dataset):
    """A data set whose errors name the image file, the label map and the pipeline step.

    All other attributes, ``dataset`` and ``pipeline`` among them, are read from and written to the
    data set inside.

    Args:
        dataset: The data set, available as ``source``.
        seed: First word of each item's seed; a ``Draw`` as the index has the others. None leaves
            the random generators alone.
        check: Compare the image's size with the annotations, and check the label map's header.
    """

    def __init__(self, dataset: Any, seed: int | None = None, check: bool = True) -> None:
        vars(self).update(source=dataset, seed=seed, check=check)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.source, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.source, name, value)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        """Return an item.

        Raises:
            InputError: The item cannot be loaded, or its files do not fit their annotations.
        """
        if isinstance(index, Draw):
            if self.seed is not None:
                seed_all(self.seed, *index.words)
            index = index.index
        info: dict = {}
        with suppress(Exception):  # other data sets have no such method
            info = dict(self.source.get_data_info(index))
        try:
            step = label_map_step(self.source) if self.check else None
            path, label_map = info.get('img_path', ''), info.get('seg_map_path') or ''
            if step and os.path.exists(path) and os.path.exists(label_map):
                check_label_map(label_map, path, False, step.imdecode_backend)
            item = self.source[index]
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, IndexError) and index == len(self):
                raise  # ends a loop over the items
            raise InputError(_failure(error, info, f'item {index!r}')) from error
        sample = item.get('data_samples') if self.check and isinstance(item, dict) else None
        shape = getattr(sample, 'ori_shape', None)
        # Mixing steps may put another image first.
        if shape and info.get('width') and getattr(sample, 'img_path', '') == info.get('img_path'):
            compare_size(info['img_path'], shape[1::-1], (info['width'], info['height']))
        return item


def leaves(dataset: Any) -> list:
    """Return the different data sets inside wrappers."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner[0] is None:
        return [dataset]
    return list({id(leaf): leaf for child in inner for leaf in leaves(child)}.values())


def label_map_step(dataset: Any) -> Any:
    """Return mmseg's own step that loads label maps; None if the data set has another or none."""
    for step in _steps(leaves(dataset)[0]):
        if (type(step).__module__, type(step).__name__) == LABEL_MAPS:
            return step
    return None


def _steps(node: Any) -> list:
    """Return the steps of a pipeline, with the steps inside steps."""
    for name in ('pipeline', 'transforms'):
        node = getattr(node, name, node)
    steps = list(node) if isinstance(node, list | tuple) else []
    return [*steps, *(inner for step in steps for inner in _steps(step))]


def failing_step(error: BaseException) -> tuple[str, dict]:
    """Return the innermost pipeline step in an error's traceback, and the results it worked on."""
    step, results = '', {}
    caller = owner = None
    for frame, _ in walk_tb(error.__traceback__):
        caller, owner = owner, frame.f_locals.get('self')
        called = type(caller).__name__ == 'Compose' and owner is not caller
        if called or isinstance(owner, BaseTransform):
            step = frame.f_code.co_name if owner is None else type(owner).__name__
        for value in list(frame.f_locals.values()):
            if isinstance(value, dict) and isinstance(value.get('img_path'), str):
                results = value
    return step, results


def _failure(error: Exception, info: dict, name: str) -> str:
    """Return the sentence about an item that cannot be loaded."""
    step, results = failing_step(error)
    results = results or info
    path, label_map = results.get('img_path'), results.get('seg_map_path')
    if path:
        name = f'image {path!r}'
    if 'ori_shape' in results:
        name += ' of {1} x {0} pixels'.format(*results['ori_shape'])
    if label_map:
        name += f' (label map {label_map!r})'
    missing = isinstance(error, FileNotFoundError)
    if step.startswith('Load') and isinstance(path, str) and (missing or os.path.exists(path)):
        try:
            check_image(path, decode=True)
            if label_map and 'Annotations' in step:
                check_label_map(label_map, path, decode=True)
        except InputError as cause:
            return str(cause)
    where = f'fails in {step}' if step else 'cannot be loaded'
    return f'{name} {where} ({type(error).__name__}: {sentence(error)}); {ADVICE}'
