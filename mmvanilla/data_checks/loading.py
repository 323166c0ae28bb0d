"""Loading steps that name the file they stumble over.

They compute what those of mmcv and mmseg compute. Without them training ends in the traceback of a
decoder, or goes on with annotations that are not those of the picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image

from ..errors import InputError, sentence
from .images import BROKEN

BYTES = ('1', 'L', 'P')  # PIL's modes of one channel of at most 8 bits
INSIDE = ('dataset', 'datasets', 'pipeline', 'transforms', 'subroutines')  # where steps may be
ADVICE = 'correct or remove it, tools/check_data.py lists all such files'


@TRANSFORMS.register_module()
class LoadImageFromFileChecked(BaseTransform):
    """Load an image (H, W, 3) and compare its size with the annotations'.

    If ``results`` have ``height`` and ``width``, as mmdet's data sets take them from the
    annotations, the image must have these.

    Args:
        load: The step that loads, by default mmcv's ``LoadImageFromFile``.
        kwargs: Arguments of that default.
    """

    def __init__(self, load: LoadImageFromFile | None = None, **kwargs: Any) -> None:
        self.load = load or LoadImageFromFile(**kwargs)

    def transform(self, results: dict) -> dict | None:
        """Load the image.

        Raises:
            InputError: If it is missing, cannot be read or has another size; the file is named.
        """
        what = f'image {results.get("img_path")!r}'
        with _naming(what, AssertionError):  # where OpenCV reads nothing
            loaded = self.load(results)
        if loaded is not None and {'height', 'width', 'ori_shape'} <= loaded.keys():
            height, width = loaded['ori_shape'][:2]
            if (height, width) != (loaded['height'], loaded['width']):
                raise InputError(
                    f'{what} is {width} x {height} pixels, but its annotations say '
                    f'{loaded["width"]} x {loaded["height"]}; {ADVICE}'
                )
        return loaded


@TRANSFORMS.register_module()
class LoadAnnotationsChecked(BaseTransform):
    """Load a label map (H, W) and check it.

    Labels out of range are found later, by ``CheckLabelsHook``, but for those over 255, which mmseg
    cuts to 8 bits.

    Args:
        load: The step that loads, by default mmseg's ``LoadAnnotations``.
        kwargs: Arguments of that default.
    """

    def __init__(self, load: BaseTransform | None = None, **kwargs: Any) -> None:
        self.load = load or TRANSFORMS.build(dict(type='mmseg.LoadAnnotations', **kwargs))

    def transform(self, results: dict) -> dict:
        """Load the label map.

        Raises:
            InputError: If it is missing, cannot be read, has several channels, labels over 255 or
                another size than the image; the file is named.
        """
        path = results['seg_map_path']
        what = f'label map {path!r}'
        with _naming(what):
            content = fileio.get(path, backend_args=self.load.backend_args)
            with Image.open(BytesIO(content)) as image:
                size, mode = image.size, image.mode
                deep = np.asarray(image) if mode not in BYTES else np.zeros((1, 1))
        if deep.ndim != 2:
            raise InputError(f'{what} has several channels (mode {mode}), expected one; {ADVICE}')
        if deep.max() > 255:
            raise InputError(f'{what} holds the label {deep.max()}, expected at most 255; {ADVICE}')
        height, width = results['ori_shape']
        if size != (width, height):
            raise InputError(
                f'{what} is {size[0]} x {size[1]} pixels, but its image {width} x {height}; '
                f'{ADVICE}'
            )
        with _naming(what, AttributeError):  # where OpenCV reads nothing
            return self.load(results)


@contextmanager
def _naming(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Name the file that cannot be read; ``kinds`` of errors say so besides the usual ones."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f'{what} does not exist; {ADVICE}') from error
    except BROKEN + kinds as error:
        raise InputError(f'{what} cannot be read ({sentence(error)}); {ADVICE}') from error


def use_checked_loading(node: object) -> int:
    """Let a built data set load with the steps of this module, in place.

    Args:
        node: A data set, a wrapper of data sets, or a pipeline; steps within steps are found.

    Returns:
        How many steps have changed.
    """
    if not isinstance(node, list):
        children = (getattr(node, name, None) for name in INSIDE)
        return sum(use_checked_loading(child) for child in children if child is not None)
    changed = 0
    for i, step in enumerate(node):
        # Who overrides one of these may read files of another kind.
        methods = (getattr(type(step), name, None) for name in ('_load_seg_map', 'transform'))
        makers = [str(getattr(method, '__module__', '')).split('.')[0] for method in methods]
        reads_labels = makers[0] == 'mmseg' and makers[1] in ('mmcv', 'mmseg')
        if isinstance(step, LoadImageFromFile):
            node[i] = LoadImageFromFileChecked(step)
        elif reads_labels:
            node[i] = LoadAnnotationsChecked(step)
        changed += node[i] is not step or use_checked_loading(step)
    return changed
