"""Find and read the images and videos to predict."""

import glob
import logging
import os
import re
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import cv2
import mmcv
import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import InputError, UserError, sentence

VIDEO_EXTENSIONS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')
# Pillow's names of formats that OpenCV reads, too, and suffixes of formats that only OpenCV reads.
FORMATS = ('BMP', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'SUN', 'TIFF', 'WEBP')
NEWER = ('AVIF', 'GIF')  # not in OpenCV 4.10
OPENCV_EXTENSIONS = ('.avif', '.dib', '.hdr', '.pfm', '.pic', '.sr')
FRAME_NUMBER = re.compile(r'_\d{6,}$')  # after a video's name, in the names of its frames
NAMED = 5  # files in a message
MAX_PIXELS = 2**30  # OpenCV's limit; Pillow's own is far lower
PILLOW_LIMIT = threading.Lock()  # which is a variable of the module
# Errors of Pillow, OpenCV and OpenMMLab's loading steps for damaged files.
BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, AssertionError, RuntimeError),
    *(struct.error, zlib.error, cv2.error, Image.DecompressionBombError),
)


@dataclass(frozen=True, slots=True)
class Input:
    """An image or a video.

    Attributes:
        path: The file.
        name: Its name without suffix, unique among the inputs of a call.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the file has the suffix of a video."""
        return is_video(self.path)


def find_inputs(arguments: Iterable[str]) -> list[Input]:
    """Return the images and videos of files, folders and patterns, each once.

    Args:
        arguments: Files, folders, or patterns such as ``'photos/*.jpg'``. The files of a folder are
            sorted by name.

    Raises:
        FileNotFoundError: If an argument matches no file.
    """
    paths = dict.fromkeys(os.path.abspath(path) for text in arguments for path in expand(text))
    names: dict[str, str] = {}
    taken: set[str] = set()
    videos: set[str] = set()
    numbers: Counter[str] = Counter()  # the last one that was tried, by stem
    # Videos first: no image may get the name of a frame.
    for path in sorted(paths, key=lambda path: not is_video(path)):
        stem = name = stem_of(path)
        while name in taken or FRAME_NUMBER.sub('', name) in videos:
            numbers[stem] = max(numbers[stem] + 1, 2)
            name = f'{stem}_{numbers[stem]}'
        names[path] = name
        taken.add(name)
        if is_video(path):
            videos.add(name)
    renamed = [path for path, name in names.items() if name != stem_of(path)]
    for path in renamed[:NAMED]:
        stem = stem_of(path)
        print_log(f'{path} is called {names[path]} in the results; {stem} is taken', 'current')
    if len(renamed) > NAMED:
        print_log(f'{len(renamed) - NAMED} more are called by another name', 'current')
    return [Input(path, names[path]) for path in paths]


def stem_of(path: str) -> str:
    """Return the name of a file without its suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def is_video(path: str) -> bool:
    """Return whether a file has the suffix of a video."""
    return path.lower().endswith(VIDEO_EXTENSIONS)


def expand(argument: str) -> list[str]:
    """Return the files of one argument, or raise a FileNotFoundError; log skipped files."""
    if os.path.isfile(argument):
        return [argument]
    if os.path.isdir(argument):
        with os.scandir(argument) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        known = (*image_extensions(), *VIDEO_EXTENSIONS)
        found = [os.path.join(argument, name) for name in names if name.lower().endswith(known)]
        others = [n for n in names if not n.lower().endswith(known) and not n.startswith('.')]
        if others:
            more = f' and {len(others) - NAMED} more' if len(others) > NAMED else ''
            print_log(
                f'left out of {argument}, without the suffix of an image or video: '
                f'{", ".join(others[:NAMED])}{more}; name them to try them',
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
    """Return the lower-case suffixes of images that the installed OpenCV and Pillow read."""
    formats = {*FORMATS, *(form for form in NEWER if cv2.haveImageWriter(f'.{form.lower()}'))}
    shared = (s for s, form in Image.registered_extensions().items() if form in formats)
    return (*shared, *filter(cv2.haveImageWriter, OPENCV_EXTENSIONS))


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Check an image file, and turn errors of reading it into an InputError with its name."""
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
    """Decode an image by Pillow, if it knows the format, since OpenCV accepts truncated files."""
    if not os.path.getsize(path):
        raise ValueError('it is empty')
    with suppress(UnidentifiedImageError), open_large(path) as image:
        image.draft(None, (1, 1))  # a JPEG file is read as a whole, but most of it is not computed
        image.load()


def open_large(path: str) -> Image.Image:
    """Open an image by Pillow, with OpenCV's limit of the number of pixels."""
    with PILLOW_LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        try:
            if limit is not None:
                Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def as_bgr(image: object) -> np.ndarray:
    """Return an image in memory as (H, W, 3), uint8, BGR.

    Args:
        image: An array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), BGR, of uint8 or of floats from 0
            to 255, which are rounded; or a PIL image, which is turned by its EXIF orientation. An
            alpha channel is dropped, as OpenCV does with files.

    Raises:
        InputError: If the image has another type, shape, dtype or range.
    """
    if isinstance(image, Image.Image) and image.mode[0] not in 'IF':  # of more than 8 bits
        image = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))[..., ::-1]
    pixels = np.asarray(image) if isinstance(image, Image.Image) else image
    if not isinstance(pixels, np.ndarray):
        raise InputError(
            f'image of type {type(image).__name__}; expected a path, an array (H, W, 3) or a PIL '
            'image'
        )
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise InputError(
            f'image of shape {pixels.shape}; expected (H, W), (H, W, 3) or (H, W, 4); move the '
            'channels to the last axis'
        )
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(
            f'image of {pixels.dtype}; expected uint8, or floats from 0 to 255; rescale and '
            'convert it'
        )
    if pixels.dtype != np.uint8:
        low, high = pixels.min(), pixels.max()
        if not 0 <= low <= high <= 255 or 0 < high <= 1:
            raise InputError(
                f'image of {pixels.dtype} from {low:g} to {high:g}; expected 0 to 255; multiply '
                'one of 0 to 1 by 255'
            )
        pixels = pixels.round().astype(np.uint8)
    channels = [0, 1, 2] if pixels.shape[2] > 1 else [0, 0, 0]
    return np.ascontiguousarray(pixels[..., channels])


def read_image(path: str) -> np.ndarray:
    """Read an image (H, W, 3), BGR, turned by its EXIF orientation, or raise an InputError."""
    with reading(path):
        image = mmcv.imread(path)
        if image is None:
            raise ValueError('no known format')
    return image


def open_video(path: str) -> mmcv.VideoReader:
    """Open a video, or raise an InputError."""
    reader = mmcv.VideoReader(path)
    if not reader.opened or not reader.width:
        raise InputError(f'video {path!r} cannot be read (no known format); replace or remove it')
    return reader


def frames(reader: mmcv.VideoReader, path: str) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3), BGR, of a video.

    Raises:
        InputError: After the last frame, if there are fewer than the file declares.
    """
    count = 0
    for frame in reader:
        yield frame
        count += 1
    # A number of frames that was computed from the duration may be off by one.
    if count < max(reader.frame_cnt - 1, 1):
        raise InputError(
            f'video {path!r} ends early, after {count} of {reader.frame_cnt} frames; these are '
            'predicted, replace the file for the rest'
        )
