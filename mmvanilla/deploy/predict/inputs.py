"""What to predict: images by file, folder or pattern, and videos."""

import glob
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from ...errors import InputError

VIDEO_EXTENSIONS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')


@dataclass(frozen=True)
class Input:
    """An image or a video.

    Attributes:
        path: The file.
        name: Its name without suffix, which no other input of the same call has.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the suffix is that of a video."""
        return self.path.lower().endswith(VIDEO_EXTENSIONS)


def find_inputs(arguments: Iterable[str]) -> list[Input]:
    """List the images and videos that arguments name, each once.

    Args:
        arguments: Files, folders, whose images and videos are taken in order of their names, or
            patterns such as ``'photos/*.jpg'``.

    Raises:
        FileNotFoundError: If an argument names nothing.
    """
    paths = dict.fromkeys(os.path.abspath(path) for text in arguments for path in expand(text))
    inputs, names = [], set()
    for path in paths:
        stem = name = os.path.splitext(os.path.basename(path))[0]
        number = 1
        while name in names:
            number += 1
            name = f'{stem}_{number}'
        names.add(name)
        inputs.append(Input(path, name))
    return inputs


def expand(argument: str) -> list[str]:
    """Return the files that one argument names.

    Raises:
        FileNotFoundError: If there are none.
    """
    if os.path.isfile(argument):
        return [argument]
    if os.path.isdir(argument):
        known = (*IMG_EXTENSIONS, *VIDEO_EXTENSIONS)
        files = (os.path.join(argument, name) for name in sorted(os.listdir(argument)))
        found = [file for file in files if file.lower().endswith(known)]
        what = 'holds no images or videos'
    else:
        found = [file for file in sorted(glob.glob(argument)) if os.path.isfile(file)]
        what = 'matches no file' if glob.has_magic(argument) else 'does not exist'
    if not found:
        raise FileNotFoundError(f'input {argument!r} {what}; check the path')
    return found


def read_image(path: str) -> np.ndarray:
    """Read an image (H, W, 3), BGR, turned as its EXIF data say.

    Raises:
        InputError: If it cannot be read, or only in part.
    """
    try:
        with open(path, 'rb') as file:
            content = file.read()
        if not content:
            raise ValueError('it is empty')
        with suppress(UnidentifiedImageError):  # of formats that OpenCV alone knows
            Image.open(io.BytesIO(content)).load()  # OpenCV fills up what is cut off
        image = mmcv.imfrombytes(content)
    except Exception as error:  # decoders raise errors of many kinds
        reason = ' '.join(str(error).split())
    else:
        reason = 'no known format'
        if image is not None:
            return image
    raise InputError(f'image {path!r} cannot be read ({reason}); replace or remove it')


def open_video(path: str) -> mmcv.VideoReader:
    """Open a video.

    Raises:
        InputError: If it cannot be opened.
    """
    reader = mmcv.VideoReader(path)
    if not reader.opened or not reader.width:
        raise InputError(f'video {path!r} cannot be read (no known format); replace or remove it')
    return reader


def frames(reader: mmcv.VideoReader, path: str) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3), BGR, of a video.

    Raises:
        InputError: After the last frame, if there are less than the file says.
    """
    count = 0
    for frame in reader:
        yield frame
        count += 1
    # Where a file has a duration only, the number of its frames may be off by one.
    if count < max(reader.frame_cnt - 1, 1):
        raise InputError(
            f'video {path!r} ends early, after {count} of {reader.frame_cnt} frames; what was '
            'read is kept, replace the file for the rest'
        )
