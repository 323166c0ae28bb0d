"""Loading steps that name the file they stumble over.

They compute what those of mmcv and mmseg compute. Without them training ends in the traceback of a
decoder, or goes on with annotations that are not those of the picture.
"""

from io import BytesIO
from typing import Any, NoReturn

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from ..errors import InputError, UserError, sentence
from .images import BROKEN, open_image, too_large
from .label_maps import several_channels

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
        try:
            loaded = self.load(results)
        except Exception as error:
            color = getattr(self.load, 'color_type', 'color')
            _raise_from(error, what, results.get('img_path'), self.load, color)
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
        if 'seg_map_path' not in results:
            raise UserError(
                "LoadAnnotations finds no label maps, as the data set's data_prefix names no "
                'seg_map_path; name their folder there'
            )
        check_reduce_zero_label(self.load.reduce_zero_label, results['reduce_zero_label'])
        path, backend = results['seg_map_path'], self.load.imdecode_backend
        what = f'label map {path!r}'
        try:
            content = fileio.get(path, backend_args=self.load.backend_args)
            with open_image(BytesIO(content)) as image:
                size, mode = image.size, image.mode
            plain = mode in BYTES or too_large(size, backend)
            values = np.zeros((2, 2)) if plain else _decode(content, 'unchanged', backend)
            loaded = self.load(results)
        except Exception as error:
            _raise_from(error, what, path, self.load, 'unchanged')
        if found := several_channels(values if mode not in BYTES else loaded['gt_seg_map'], image):
            mode, advice = found
            raise InputError(
                f'{what} has several channels ({mode}), expected one{advice or f"; {ADVICE}"}'
            )
        if values.max() > 255:
            raise InputError(
                f'{what} holds the label {values.max()}, expected at most 255; {ADVICE}'
            )
        height, width = results['ori_shape']
        if size != (width, height):
            raise InputError(
                f'{what} is {size[0]} x {size[1]} pixels, but its image {width} x {height}; '
                f'{ADVICE}'
            )
        return loaded


def check_reduce_zero_label(step: bool | None, dataset: bool | None) -> None:
    """Check that a loading step shifts labels as its data set says, or leaves that to it.

    Raises:
        UserError: If they differ, at which mmseg would stop.
    """
    if step is not None and step != dataset:
        raise UserError(
            f'reduce_zero_label is {dataset} in the data set, but {step} in LoadAnnotations of its '
            'pipeline; set it in the data set and leave it out of the pipeline'
        )


def _raise_from(error: Exception, what: str, path: Any, load: Any, flag: str) -> NoReturn:
    """Raise what a loading step raised; where the file is at fault, name it.

    That is so where the file cannot be had, or the step's decoder makes nothing of it. Any other
    fault, in a step or a backend of somebody's own, is raised as it is.
    """
    if not isinstance(path, str):
        raise error
    backend = getattr(load, 'imdecode_backend', 'cv2')
    try:
        content = fileio.get(path, backend_args=getattr(load, 'backend_args', None))
    except FileNotFoundError:
        raise InputError(f'{what} does not exist; {ADVICE}') from error
    except OSError as cause:
        raise InputError(f'{what} cannot be read ({_named(cause)}); {ADVICE}') from error
    except Exception:
        raise error from None
    if backend not in (*mmcv.image.io.supported_backends, None):
        raise error
    advice = ADVICE
    try:
        with open_image(BytesIO(content)) as image:
            if too_large(image.size, backend) and backend == 'pillow':
                advice = f"set imdecode_backend='cv2' of {type(load).__name__}"
    except BROKEN:
        pass  # told by the decoder itself
    try:
        _decode(content, flag, backend)
    except BROKEN as cause:
        raise InputError(f'{what} cannot be read ({_named(cause)}); {advice}') from error
    raise error


def _named(error: Exception) -> str:
    return f'{type(error).__name__}: {sentence(error)}'


def _decode(content: bytes, flag: str, backend: str | None) -> np.ndarray:
    """Decode a file's content as mmcv does.

    Raises:
        ValueError: If the decoder gives nothing, or another of ``BROKEN``.
    """
    array = mmcv.imfrombytes(content, flag=flag, backend=backend)
    if array is None:
        raise ValueError(f'{backend or "cv2"} does not decode it')
    return array


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
