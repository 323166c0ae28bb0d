"""Items of a data set: seeded draws, and errors that name the file and the step."""

import os
import random
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch.utils.data import Dataset, get_worker_info

from ..errors import InputError, sentence
from .files import ADVICE, check_image, check_label_map, compare_size

OWN = 'source', 'seed', 'check'


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


class Items(Dataset):
    """A data set whose errors name the image file, the label map and the pipeline step.

    All other attributes, ``dataset`` and ``pipeline`` among them, are read from and written to the
    data set inside.

    Args:
        dataset: The data set, available as ``source``.
        seed: First word of each item's seed. The other words are the attribute ``draw`` of the
            index, if it has one. None leaves the random generators alone.
        check: Compare the image's size with the annotations, and check the label map's header.
    """

    def __init__(self, dataset: Any, seed: int | None = None, check: bool = True) -> None:
        self.source = dataset
        self.seed = seed
        self.check = check

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name in OWN:
            raise AttributeError(name)
        return getattr(self.source, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.source, name, value)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        """Return an item.

        Raises:
            InputError: The item cannot be loaded, or its files do not fit their annotations.
        """
        if self.seed is not None and hasattr(index, 'draw'):
            seed_all(self.seed, *index.draw)
        if isinstance(index, int):
            index = int(index)
        info = self._info(index)
        try:
            step = label_map_step(self.source) if self.check and _local(info) else None
            if step:
                check_label_map(
                    info['seg_map_path'], info['img_path'], False, step.imdecode_backend
                )
            item = self.source[index]
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, IndexError) and isinstance(index, int) and index >= len(self):
                raise  # ends a loop over the items
            raise InputError(_failure(error, info, f'item {index!r}')) from error
        if self.check and isinstance(item, dict):
            _compare_sizes(item.get('data_samples'), info)
        return item

    def _info(self, index: Any) -> dict:
        """Return the annotations of an item, {} if there are none."""
        try:
            info = self.source.get_data_info(index)
        except Exception:
            return {}
        return info if isinstance(info, dict) else {}


def label_map_step(dataset: Any) -> Any:
    """Return mmseg's own step that loads label maps, None if a data set has another or none."""
    while dataset is not None and not hasattr(dataset, 'pipeline'):
        inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
        dataset = inner[0]
    names = {f'{type(step).__module__}.{type(step).__name__}': step for step in _steps(dataset)}
    return names.get('mmseg.datasets.transforms.loading.LoadAnnotations')


def _steps(node: Any) -> list:
    """Return the steps of a pipeline, with the steps inside steps."""
    for name in ('pipeline', 'transforms'):
        node = getattr(node, name, node)
    steps = list(node) if isinstance(node, (list, tuple)) else []
    return [*steps, *(inner for step in steps for inner in _steps(step))]


def _local(info: dict, *paths: Any) -> bool:
    """Return whether paths, by default those of the image and label map, are local files."""
    paths = paths or (info.get('img_path'), info.get('seg_map_path'))
    return all(isinstance(path, str) and os.path.exists(path) for path in paths)


def _compare_sizes(sample: Any, info: dict) -> None:
    """Compare the loaded image's size with the annotations of the same image."""
    path, shape = getattr(sample, 'img_path', None), getattr(sample, 'ori_shape', None)
    if path and shape and path == info.get('img_path') and {'height', 'width'} <= info.keys():
        compare_size(path, tuple(shape[1::-1]), (info['width'], info['height']))


def failing_step(error: BaseException) -> tuple[str, dict]:
    """Return the innermost pipeline step in an error's traceback, and the results it worked on."""
    step, results = '', {}
    caller = owner = None
    for frame, _ in walk_tb(error.__traceback__):
        caller, owner = owner, frame.f_locals.get('self')
        if isinstance(owner, BaseTransform):
            step = type(owner).__name__
        elif type(caller).__name__ == 'Compose' and owner is not caller:
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
    if isinstance(path, str):
        name = f'image {path!r}'
        if 'ori_shape' in results:
            name += ' of {1} x {0} pixels'.format(*results['ori_shape'])
    if isinstance(label_map, str):
        name += f' (label map {label_map!r})'
    missing = isinstance(error, FileNotFoundError)
    if step.startswith('Load') and isinstance(path, str) and (missing or os.path.exists(path)):
        try:
            check_image(path, decode=True)
            if isinstance(label_map, str) and 'Annotations' in step:
                check_label_map(label_map, path, decode=True)
        except InputError as cause:
            return str(cause)
    where = f'fails in {step}' if step else 'cannot be loaded'
    return f'{name} {where} ({type(error).__name__}: {sentence(error)}); {ADVICE}'
