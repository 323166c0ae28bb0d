"""Checks of image files, by their headers or by decoding them."""

import os
import struct
import zlib
from collections.abc import Iterator
from threading import Lock
from typing import IO

import cv2
from PIL import Image, UnidentifiedImageError

from .findings import Finding, fault, remark

# What Pillow and OpenCV raise at a file that is broken or none of an image.
BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError),
    *(struct.error, zlib.error, cv2.error, Image.DecompressionBombError),
)
ORIENTATION = 0x0112  # EXIF's tag
TAIL = 4096  # bytes; what cameras append to a picture is rarely longer
END = dict(JPEG=b'\xff\xd9', PNG=b'IEND')  # in compressed data of JPEG, 0 follows 255
OPENCV_PIXELS = int(os.environ.get('OPENCV_IO_MAX_IMAGE_PIXELS', 2**30))
LIMIT = Lock()  # held while Pillow's own limit, one for all threads, is off or read


def open_image(file: str | IO[bytes]) -> Image.Image:
    """Open an image as Pillow does, of whatever size."""
    try:
        return Image.open(file)
    except Image.DecompressionBombError:
        with LIMIT:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(file)
            finally:
                Image.MAX_IMAGE_PIXELS = limit


def too_large(size: tuple[int, int], backend: str) -> str:
    """Say why a backend of mmcv reads no image of a width and height, '' if it does."""
    with LIMIT:
        pillow = 2 * (Image.MAX_IMAGE_PIXELS or OPENCV_PIXELS)
    most = pillow if backend == 'pillow' else OPENCV_PIXELS
    if size[0] * size[1] <= most:
        return ''
    reason = f'{size[0]} x {size[1]}, more than the {most} pixels that {backend} reads'
    return f"{reason}; set imdecode_backend='cv2'" if backend == 'pillow' else reason


def image_size(image: Image.Image, turn: bool) -> tuple[int, int]:
    """Width and height of an image, as it stands or turned as its EXIF data say."""
    return image.size[::-1] if turn and _orientation(image) >= 5 else image.size


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 if there is none; from 5 on, width and height change places."""
    if image.format == 'PNG' and 'exif' not in image.info:
        return 1  # PIL would decode all of the file to look for it
    return image.getexif().get(ORIENTATION, 1)


def check_image(
    path: str,
    size: tuple[int, int] | None = None,
    decode: bool = False,
    turn: bool = True,
    backend: str = 'cv2',
) -> list[Finding]:
    """Check an image file.

    Args:
        path: The file.
        size: Width and height that the annotations give it.
        decode: Whether to decode all of it. Otherwise that is done only if the end of the file is
            not that of a whole JPEG or PNG file; what is broken in the middle is not found.
        turn: Whether training turns images as their EXIF data say.
        backend: What training decodes with, ``imdecode_backend`` of mmcv.
    """
    try:
        with open_image(path) as image:
            if reason := too_large(image.size, backend):
                return [fault('image too large to be read', f'{path} ({reason})')]
            if decode or not _is_whole(path, image.format):
                image.load()
            return [*_check_form(image, path, turn), *_check_size(image, path, size, turn)]
    except FileNotFoundError:
        return [fault('missing image', path)]
    except UnidentifiedImageError:
        if os.path.getsize(path) and cv2.imread(path) is not None:
            return []  # a format that OpenCV alone knows
        return [fault('unreadable or truncated image', path)]
    except BROKEN as error:
        return [fault('unreadable or truncated image', f'{path} ({error})')]


def _is_whole(path: str, form: str | None) -> bool:
    with open(path, 'rb') as file:
        file.seek(-min(TAIL, os.path.getsize(path)), os.SEEK_END)
        return form in END and END[form] in file.read()


def _check_form(image: Image.Image, path: str, turn: bool) -> Iterator[Finding]:
    with open(path, 'rb') as file:
        head = file.read(25)
    # PIL gives PNG files of 3 x 16 bits as RGB; byte 24 has the bits.
    if image.mode.startswith(('I', 'F')) or (image.format == 'PNG' and head[24] == 16):
        yield remark('more than 8 bits', path, 'reads it in 8 bits')
    if image.mode in ('1', 'L', 'LA', 'I', 'F') or image.mode.startswith('I;16'):
        yield remark('greyscale', path, 'reads it as colour')
    if image.mode == 'CMYK':
        yield remark('CMYK', path, 'reads it as colour')
    if image.has_transparency_data:
        yield remark('transparency', path, 'ignores it')
    if turn and _orientation(image) > 1:
        yield remark('turned by EXIF data', path, 'turns it')


def _check_size(
    image: Image.Image, path: str, size: tuple[int, int] | None, turn: bool
) -> Iterator[Finding]:
    width, height = image_size(image, turn)
    if size is not None and (width, height) != tuple(size):
        turned = 'EXIF turns the picture away from its annotations'
        kind = turned if image.size == tuple(size) else "size other than the annotations'"
        yield fault(kind, f'{path} ({width} x {height}, not {size[0]} x {size[1]})')
