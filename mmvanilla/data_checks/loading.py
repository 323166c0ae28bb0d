"""Loading steps of mmcv and mmseg that name the file they stumble over.

They compute what theirs compute. Without them training ends in the traceback of a decoder, or goes
on with annotations that are not those of the picture.
"""

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from PIL import Image

from ..cli.config import DATALOADERS, walk_dicts
from ..errors import InputError

BYTES = ('1', 'L', 'P')  # PIL's modes of one channel of at most 8 bits
ADVICE = 'correct or remove it, tools/check_data.py lists all such files'


@TRANSFORMS.register_module()
class LoadImageFromFileChecked(LoadImageFromFile):
    """Load an image (H, W, 3) and compare its size with the annotations'.

    Arguments are those of ``LoadImageFromFile``. If ``results`` have ``height`` and ``width``, as
    mmdet's data sets take them from the annotations, the image must have these.
    """

    def transform(self, results: dict) -> dict | None:
        """Load the image.

        Raises:
            InputError: If it is missing, cannot be read or has another size; the file is named.
        """
        path = results['img_path']
        try:
            loaded = super().transform(results)
        except FileNotFoundError as error:
            raise InputError(f'image {path!r} does not exist; {ADVICE}') from error
        except Exception as error:  # decoders raise errors of many kinds
            raise InputError(f'image {path!r} cannot be read; {ADVICE}') from error
        if loaded is not None and {'height', 'width'} <= results.keys():
            height, width = loaded['ori_shape']
            if (height, width) != (results['height'], results['width']):
                raise InputError(
                    f'image {path!r} is {width} x {height} pixels, but its annotations say '
                    f'{results["width"]} x {results["height"]}; {ADVICE}'
                )
        return loaded


@TRANSFORMS.register_module()
class LoadAnnotationsChecked(BaseTransform):
    """Load a label map (H, W) with mmseg's ``LoadAnnotations`` and check it.

    Arguments are those of ``mmseg.LoadAnnotations``. Labels out of range are found later, by
    :class:`mmvanilla.engine.CheckLabelsHook`, but for those over 255, which mmseg cuts to 8 bits.
    """

    def __init__(self, **kwargs: object) -> None:
        self.load = TRANSFORMS.build(dict(type='mmseg.LoadAnnotations', **kwargs))

    def transform(self, results: dict) -> dict:
        """Load the label map.

        Raises:
            InputError: If it is missing, cannot be read, has several channels, labels over 255 or
                another size than the image; the file is named.
        """
        path = results['seg_map_path']
        try:
            with Image.open(path) as image:
                size, mode = image.size, image.mode
                deep = np.asarray(image) if mode not in BYTES else None
            loaded = self.load(results) if deep is None or deep.ndim == 2 else None
        except FileNotFoundError as error:
            raise InputError(f'label map {path!r} does not exist; {ADVICE}') from error
        except Exception as error:  # decoders raise errors of many kinds
            raise InputError(f'label map {path!r} cannot be read; {ADVICE}') from error
        if loaded is None:
            raise InputError(
                f'label map {path!r} has several channels (mode {mode}), expected one; {ADVICE}'
            )
        if deep is not None and deep.max() > 255:
            raise InputError(
                f'label map {path!r} holds the label {deep.max()}, expected at most 255; {ADVICE}'
            )
        height, width = results['ori_shape']
        if size != (width, height):
            raise InputError(
                f'label map {path!r} is {size[0]} x {size[1]} pixels, but its image '
                f'{width} x {height}; {ADVICE}'
            )
        return loaded


def use_checked_loading(cfg: Config) -> None:
    """Let the data sets of a config load with the steps of this module, in place."""
    for step in (node for key in DATALOADERS for node in walk_dicts(cfg.get(key))):
        if step.get('type') == 'LoadImageFromFile':
            step.type = 'LoadImageFromFileChecked'
        if step.get('type') == 'LoadAnnotations' and cfg.get('default_scope') == 'mmseg':
            step.type = 'LoadAnnotationsChecked'
