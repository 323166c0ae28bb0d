"""What to predict: images by file, folder or pattern, and videos."""

import glob
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import cv2
import mmcv
import numpy as np
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from ...errors import InputError, UserError, sentence

VIDEO_EXTENSIONS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')
# What Pillow calls the formats that OpenCV reads as well, and suffixes of those that it alone does.
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'SUN', 'TIFF', 'WEBP')
OPENCV_EXTENSIONS = ('.avif', '.dib', '.exr', '.hdr', '.pfm', '.pic', '.sr')
FRAME_NUMBER = re.compile(r'_\d{6,}$')  # behind a video's name, in the names of its frames
TOLD = 5  # files left out that are named
MAX_PIXELS = 2**30  # of an image that OpenCV reads; Pillow's own limit is far below
# What Pillow, OpenCV and the loading steps of OpenMMLab raise at a file that they cannot read.
BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, AssertionError, RuntimeError),
    *(struct.error, zlib.error, cv2.error, Image.DecompressionBombError),
)


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
        return is_video(self.path)


def find_inputs(arguments: Iterable[str]) -> list[Input]:
    """List the images and videos that arguments name, each once.

    Args:
        arguments: Files, folders, whose images and videos are taken in order of their names, or
            patterns such as ``'photos/*.jpg'``.

    Raises:
        FileNotFoundError: If an argument names nothing.
    """
    paths = dict.fromkeys(os.path.abspath(path) for text in arguments for path in expand(text))
    names: dict[str, str] = {}
    videos: set[str] = set()
    # Videos first, since no image may be called as one of their frames.
    for path in sorted(paths, key=lambda path: not is_video(path)):
        stem = name = os.path.splitext(os.path.basename(path))[0]
        number = 1
        while name in names.values() or FRAME_NUMBER.sub('', name) in videos:
            number += 1
            name = f'{stem}_{number}'
        if name != stem:
            print_log(f'{path} is called {name} in the results, {stem} is another', 'current')
        names[path] = name
        if is_video(path):
            videos.add(name)
    return [Input(path, names[path]) for path in paths]


def is_video(path: str) -> bool:
    """Tell whether the suffix of a file is that of a video."""
    return path.lower().endswith(VIDEO_EXTENSIONS)


def expand(argument: str) -> list[str]:
    """Return the files that one argument names; what is left out of a folder is logged.

    Raises:
        FileNotFoundError: If there are none.
    """
    if os.path.isfile(argument):
        return [argument]
    if os.path.isdir(argument):
        names = [n for n in sorted(os.listdir(argument)) if os.path.isfile(f'{argument}/{n}')]
        known = (*image_extensions(), *VIDEO_EXTENSIONS)
        found = [os.path.join(argument, name) for name in names if name.lower().endswith(known)]
        others = [n for n in names if not n.lower().endswith(known) and not n.startswith('.')]
        if others:
            more = f' and {len(others) - TOLD} more' if len(others) > TOLD else ''
            print_log(
                f'left out of {argument}, as their suffix is that of no known image or video: '
                f'{", ".join(others[:TOLD])}{more}; to try them, name them',
                'current',
                logging.WARNING,
            )
        what = 'holds no images or videos'
    else:
        found = [file for file in sorted(glob.glob(argument)) if os.path.isfile(file)]
        what = 'matches no file' if glob.has_magic(argument) else 'does not exist'
    if not found:
        raise FileNotFoundError(f'input {argument!r} {what}; check the path')
    return found


def image_extensions() -> tuple[str, ...]:
    """Return the suffixes, in lower case, of what the installed OpenCV and Pillow read."""
    shared = (s for s, form in Image.registered_extensions().items() if form in FORMATS)
    return (*shared, *filter(_is_known, OPENCV_EXTENSIONS))


def _is_known(suffix: str) -> bool:
    try:
        return cv2.haveImageWriter(suffix)
    except cv2.error:  # known, but switched off, as OpenEXR in OpenCV 4
        return False


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Name an image that cannot be read, whatever reads it, or only in part.

    Raises:
        InputError: If it is such an image; the message says why.
    """
    try:
        check_whole(path)
        yield
    except UserError:
        raise
    except BROKEN as error:
        raise InputError(
            f'image {path!r} cannot be read ({sentence(error)}); replace or remove it'
        ) from error


def check_whole(path: str) -> None:
    """Let Pillow decode an image, since OpenCV fills up what is cut off.

    Raises:
        Exception: One of :data:`BROKEN`, if it cannot; of a format that it does not know, nothing.
    """
    if not os.path.getsize(path):
        raise ValueError('it is empty')
    limit = Image.MAX_IMAGE_PIXELS
    try:
        if limit is not None:
            Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many
        with suppress(UnidentifiedImageError), Image.open(path) as image:
            image.load()
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_image(path: str) -> np.ndarray:
    """Read an image (H, W, 3), BGR, turned as its EXIF data say.

    Raises:
        InputError: If it cannot be read, or only in part.
    """
    with reading(path):
        image = mmcv.imread(path)
        if image is None:
            raise ValueError('no known format')
    return image


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
