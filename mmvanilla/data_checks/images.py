"""Checks of image files, by their headers or by decoding them."""

import os
from collections.abc import Iterator

import cv2
from PIL import Image, UnidentifiedImageError

from .findings import Finding, Kind

MISSING = Kind('missing image', 'stops')
UNREADABLE = Kind('unreadable or truncated image', 'stops')
WRONG_SIZE = Kind("size other than the annotations'", 'stops')
TURNED = Kind('EXIF turns the picture away from its annotations', 'stops')

EXIF = Kind('turned by EXIF data', 'turns it', False)
GREY = Kind('greyscale', 'reads it as colour', False)
CMYK = Kind('CMYK', 'reads it as colour', False)
DEEP = Kind('more than 8 bits', 'reads it in 8 bits', False)
ALPHA = Kind('transparency', 'ignores it', False)

ORIENTATION = 0x0112  # EXIF's tag
TAIL = 4096  # bytes; what cameras append to a picture is rarely longer
END = dict(JPEG=b'\xff\xd9', PNG=b'IEND')  # in compressed data of JPEG, 0 follows 255


def image_size(image: Image.Image, turn: bool) -> tuple[int, int]:
    """Width and height of an image, as it stands or turned as its EXIF data say."""
    return image.size[::-1] if turn and _orientation(image) >= 5 else image.size


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 if there is none; from 5 on, width and height change places."""
    if image.format == 'PNG' and 'exif' not in image.info:
        return 1  # PIL would decode all of the file to look for it
    return image.getexif().get(ORIENTATION, 1)


def check_image(
    path: str, size: tuple[int, int] | None = None, decode: bool = False, turn: bool = True
) -> list[Finding]:
    """Check an image file.

    Args:
        path: The file.
        size: Width and height that the annotations give it.
        decode: Whether to decode all of it. Otherwise that is done only if the end of the file is
            not that of a whole JPEG or PNG file; what is broken in the middle is not found.
        turn: Whether training turns images as their EXIF data say.
    """
    try:
        with Image.open(path) as image:
            if decode or not _is_whole(path, image.format):
                image.load()
            return [Finding(kind, path) for kind in _check_form(image, path, turn)] + [
                Finding(kind, f'{path} ({found}, not {size[0]} x {size[1]})')
                for kind, found in _check_size(image, size, turn)
            ]
    except FileNotFoundError:
        return [Finding(MISSING, path)]
    except UnidentifiedImageError:
        if os.path.getsize(path) and cv2.imread(path) is not None:
            return []  # a format that OpenCV alone knows
        return [Finding(UNREADABLE, path)]
    except Exception as error:  # decoders raise errors of many kinds
        return [Finding(UNREADABLE, f'{path} ({error})')]


def _is_whole(path: str, form: str | None) -> bool:
    with open(path, 'rb') as file:
        file.seek(-min(TAIL, os.path.getsize(path)), os.SEEK_END)
        return form in END and END[form] in file.read()


def _check_form(image: Image.Image, path: str, turn: bool) -> Iterator[Kind]:
    with open(path, 'rb') as file:
        head = file.read(25)
    # PIL gives PNG files of 3 x 16 bits as RGB; byte 24 has the bits.
    if image.mode.startswith(('I', 'F')) or (image.format == 'PNG' and head[24] == 16):
        yield DEEP
    if image.mode in ('1', 'L', 'LA', 'I', 'F') or image.mode.startswith('I;16'):
        yield GREY
    if image.mode == 'CMYK':
        yield CMYK
    if image.has_transparency_data:
        yield ALPHA
    if turn and _orientation(image) > 1:
        yield EXIF


def _check_size(
    image: Image.Image, size: tuple[int, int] | None, turn: bool
) -> Iterator[tuple[Kind, str]]:
    width, height = image_size(image, turn)
    if size is not None and (width, height) != tuple(size):
        away = image.size == tuple(size)
        yield TURNED if away else WRONG_SIZE, f'{width} x {height}'
