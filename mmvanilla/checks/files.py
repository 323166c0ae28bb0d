"""Checks of image and label-map files, by their headers."""

import os
import struct
import zlib
from pathlib import Path
from threading import Lock
from typing import IO, NamedTuple

import cv2
from PIL import Image, UnidentifiedImageError

from ..errors import InputError, sentence

ADVICE = 'correct or remove it, tools/check_data.py lists all such files'
# Errors of Pillow and OpenCV at a damaged file.
BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError),
    *(struct.error, zlib.error, cv2.error, Image.DecompressionBombError),
)
END = dict(JPEG=b'\xff\xd9', PNG=b'IEND')
TAIL = 4096  # bytes that are searched for the end marker
LOSSY = 'JPEG', 'MPO'
ORIENTATION = 0x0112  # EXIF's tag
OPENCV_PIXELS = int(os.environ.get('OPENCV_IO_MAX_IMAGE_PIXELS', 2**30))
LIMIT = Lock()  # protects Pillow's limit, which all threads share


class Header(NamedTuple):
    """Facts from the header of an image file.

    Sizes are width and height in pixels, ``size`` as EXIF turns the image and ``stored`` before.
    ``mode`` and ``format`` are Pillow's. ``highest`` is the highest value in files of one channel
    with more than 8 bits, else 0.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    mode: str
    format: str
    highest: int = 0


def check_image(
    path: str, size: tuple[float, float] | None = None, decode: bool = False, backend: str = 'cv2'
) -> None:
    """Check an image file.

    Args:
        path: The file.
        size: Annotated width and height in pixels; None skips the comparison.
        decode: Decode the whole file. Otherwise only a file without an end marker is decoded.
        backend: mmcv's ``imdecode_backend``.

    Raises:
        InputError: The file is missing, damaged, too large or of another size.
    """
    header = read_header(f'image {path!r}', path, decode, backend)
    if header and size is not None:
        compare_size(path, header.size, size, header.size != header.stored)


def compare_size(
    path: str, found: tuple[float, ...], expected: tuple[float, ...], turned: bool = False
) -> None:
    """Compare an image's width and height with the annotated ones.

    Raises:
        InputError: They differ.
    """
    if tuple(found) != tuple(expected):
        by = ' (EXIF turns it)' if turned else ''
        raise InputError(
            f'image {path!r} is {found[0]} x {found[1]} pixels{by}, but its annotations say '
            f'{expected[0]} x {expected[1]}; {ADVICE}'
        )


def check_label_map(
    path: str, image_path: str | None = None, decode: bool = False, backend: str = 'pillow'
) -> None:
    """Check a label-map file of semantic segmentation.

    Args:
        path: The label map.
        image_path: Its image; None skips the comparison of sizes.
        decode: Decode the whole file.
        backend: ``imdecode_backend`` of mmseg's ``LoadAnnotations``.

    Raises:
        InputError: The file is missing, damaged or too large, or it is a JPEG, has several
            channels, values over 255 or another size than its image.
    """
    what = f'label map {path!r}'
    header = read_header(what, path, decode, backend)
    if header is None:
        return
    if header.format in LOSSY:
        raise InputError(f'{what} is a JPEG file, which changes labels; write it as PNG')
    if header.mode not in ('1', 'L', 'P') and not header.mode.startswith(('I', 'F')):
        raise InputError(
            f'{what} has several channels (mode {header.mode}), expected one; {ADVICE}'
        )
    if header.mode in ('1', 'P') and backend == 'cv2':
        raise InputError(
            f'{what} has mode {header.mode}, which OpenCV reads as colors; set '
            "imdecode_backend='pillow' in LoadAnnotations"
        )
    if header.highest > 255:
        raise InputError(f'{what} holds the label {header.highest}, expected at most 255; {ADVICE}')
    if image_path is not None:
        image = read_header(f'image {image_path!r}', image_path)
        if image and image.size != header.stored:
            raise InputError(
                f'{what} is {header.stored[0]} x {header.stored[1]} pixels, but its image '
                f'{image.size[0]} x {image.size[1]}; {ADVICE}'
            )


def read_header(what: str, path: str, decode: bool = False, backend: str = 'cv2') -> Header | None:
    """Read the header of an image file; None if only OpenCV knows its format.

    Raises:
        InputError: The file is missing, damaged or too large.
    """
    try:
        with _open(path) as image:
            most = OPENCV_PIXELS
            if backend == 'pillow':
                most = 2 * (Image.MAX_IMAGE_PIXELS or OPENCV_PIXELS)
            if image.width * image.height > most:
                advice = "set imdecode_backend='cv2'" if backend == 'pillow' else ADVICE
                raise UserWarning(f'{image.width} x {image.height} pixels, at most {most}', advice)
            if decode or not _is_whole(path, image.format):
                image.load()
            turned = False
            # Pillow decodes a whole PNG to look for its EXIF data.
            if image.format != 'PNG' or 'exif' in image.info:
                turned = image.getexif().get(ORIENTATION, 1) >= 5
            deep = image.mode.startswith(('I', 'F'))
            highest = int(image.getextrema()[1]) if deep else 0  # type: ignore[arg-type]
            size = image.size[::-1] if turned else image.size
            return Header(size, image.size, image.mode, image.format or '', highest)
    except UserWarning as error:
        reason, advice = error.args
        raise InputError(f'{what} is too large for {backend} ({reason}); {advice}') from None
    except FileNotFoundError:
        raise InputError(f'{what} does not exist; {ADVICE}') from None
    except BROKEN as error:
        if isinstance(error, UnidentifiedImageError):
            if Path(path).stat().st_size and cv2.imread(path) is not None:
                return None
            error = ValueError('no known format' if Path(path).stat().st_size else 'empty file')
        raise InputError(f'{what} cannot be read ({sentence(error)}); {ADVICE}') from error


def _open(file: str | IO[bytes]) -> Image.Image:
    """Open an image of any size."""
    try:
        return Image.open(file)
    except Image.DecompressionBombError:
        with LIMIT:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(file)
            finally:
                Image.MAX_IMAGE_PIXELS = limit


def _is_whole(path: str, form: str | None) -> bool:
    """Return whether a file ends with the end marker of its format."""
    with open(path, 'rb') as file:
        file.seek(-min(TAIL, os.path.getsize(path)), os.SEEK_END)
        return form in END and END[form] in file.read()
