"""Checks of image and label-map files, by their headers."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
from PIL import Image, UnidentifiedImageError

from ..errors import InputError, sentence

ADVICE = 'correct or remove it, tools/check_data.py lists all such files'
END = dict(JPEG=b'\xff\xd9', PNG=b'IEND')
TAIL = 4096  # bytes that are searched for the end marker
ORIENTATION = 0x0112  # EXIF's tag


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
    highest: int


def check_image(path: str, size: tuple[float, float] | None = None, decode: bool = False) -> None:
    """Check an image file.

    Args:
        path: The file.
        size: Annotated width and height in pixels; None skips the comparison.
        decode: Decode the whole file. Otherwise only a file without an end marker is decoded.

    Raises:
        InputError: The file is missing, damaged, too large or of another size.
    """
    header = read_header(f'image {path!r}', path, decode)
    if header and size is not None:
        turned = ' (EXIF turns it)' if header.size != header.stored else ''
        compare_size(path, header.size, size, turned)


def compare_size(
    path: str, found: tuple[float, ...], expected: tuple[float, ...], remark: str = ''
) -> None:
    """Compare an image's width and height with the annotated ones.

    Raises:
        InputError: They differ.
    """
    if tuple(found) != tuple(expected):
        raise InputError(
            f'image {path!r} is {found[0]} x {found[1]} pixels{remark}, but its annotations say '
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
    header = read_header(f'label map {path!r}', path, decode, backend)
    if header is None:
        return
    image = read_header(f'image {image_path!r}', image_path) if image_path is not None else None
    if header.format in ('JPEG', 'MPO'):
        fault = 'is a JPEG file, which changes labels; write it as PNG'
    elif header.mode not in ('1', 'L', 'P') and not header.mode.startswith(('I', 'F')):
        fault = f'has several channels (mode {header.mode}), expected one; {ADVICE}'
    elif header.mode in ('1', 'P') and backend == 'cv2':
        fault = f'has mode {header.mode}, which OpenCV reads as colors; set '
        fault += "imdecode_backend='pillow' in LoadAnnotations"
    elif header.highest > 255:
        fault = f'holds the label {header.highest}, expected at most 255; {ADVICE}'
    elif image and image.size != header.stored:
        sizes = '{} x {} pixels, but its image {} x {}'.format(*header.stored, *image.size)
        fault = f'is {sizes}; {ADVICE}'
    else:
        return
    raise InputError(f'label map {path!r} {fault}')


def read_header(what: str, path: str, decode: bool = False, backend: str = 'cv2') -> Header | None:
    """Read the header of an image file; None if OpenCV reads the file and Pillow does not.

    Raises:
        InputError: The file is missing, damaged or too large.
    """
    try:
        with Image.open(path) as image:
            if decode or not _is_whole(path, image.format or ''):
                image.load()
            # Pillow decodes a whole PNG to look for its EXIF data.
            turned = 'exif' in image.info and image.getexif().get(ORIENTATION, 1) >= 5
            deep = image.mode.startswith(('I', 'F'))
            highest = int(image.getextrema()[1]) if deep else 0  # type: ignore[arg-type]
            size = image.size[::-1] if turned else image.size
            return Header(size, image.size, image.mode, image.format or '', highest)
    except FileNotFoundError:
        raise InputError(f'{what} does not exist; {ADVICE}') from None
    except Exception as error:  # of Pillow, which may raise anything at a damaged file
        unread = isinstance(error, UnidentifiedImageError | Image.DecompressionBombError)
        with suppress(cv2.error):
            if unread and backend == 'cv2' and cv2.imread(path) is not None:
                return None
        reason = sentence(error)
        if isinstance(error, UnidentifiedImageError):
            reason = 'no known format' if Path(path).stat().st_size else 'empty file'
        raise InputError(f'{what} cannot be read ({reason}); {ADVICE}') from error


def _is_whole(path: str, form: str) -> bool:
    """Return whether a file ends with the end marker of its format."""
    with open(path, 'rb') as file:
        file.seek(-min(TAIL, os.path.getsize(path)), os.SEEK_END)
        return form in END and END[form] in file.read()
