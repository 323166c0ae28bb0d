"""Folders of images and of masks of the same names, for segmentation.

A mask is of one channel (labels, or 0 and 255), of a palette (labels) or of colours, which a
legend names: lines ``NAME:R,G,B`` in labelmap.txt, as CVAT writes it, or classes.txt.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .files import SUFFIXES, files_below, split_of
from .records import Found, Item, Shape, Size, check_size

FOLDERS = ('masks', 'mask', 'labels', 'annotations', 'segmentationclass', 'gt', 'ground_truth')
LEGENDS = ('labelmap.txt', 'classes.txt', 'legend.txt')


def is_format(source: Path) -> bool:
    """Return whether there is a folder of masks, such as masks/ or SegmentationClass/."""
    return source.is_dir() and bool(_masks(source))


def read(source: Path) -> Found:
    """Find images and their masks; classes are those of the legend, else of the labels.

    Raises:
        UserError: If a legend is damaged.
    """
    legend = read_legend(source)
    return Found(_items(source), tuple(legend) or None)


def _masks(source: Path) -> dict[tuple[str, str], Path]:
    """Return the masks by split and stem."""
    found = {}
    for file in files_below(source, '.png', '.bmp', '.tif', '.tiff'):
        parts = file.relative_to(source).parts[:-1]
        if any(part.lower() in FOLDERS for part in parts):
            found[split_of(Path(*parts)), file.stem.removesuffix('_mask')] = file
    return found


def _items(source: Path) -> Iterator[Item]:
    masks = _masks(source)
    files = set(masks.values())
    for image in files_below(source, *SUFFIXES):
        if image in files:
            continue
        split = split_of(image.relative_to(source))
        mask = masks.pop((split, image.stem), None)
        labels = mask or image.with_suffix('.png')
        yield Item(image, image.name, labels, _none, split, mask)
    for (split, stem), mask in masks.items():
        yield Item(mask.with_name(f'image of {stem}'), stem, mask, _none, split, mask)


def _none(size: Size) -> list[Shape]:
    return []


def read_legend(source: Path) -> dict[str, tuple[int, int, int] | None]:
    """Return the colour of each class, None where classes are labels 0, 1, ... in their order.

    Raises:
        UserError: If a line has no class and colour.
    """
    file = next((source / name for name in LEGENDS if (source / name).exists()), None)
    legend: dict[str, tuple[int, int, int] | None] = {}
    for line in file.read_text().splitlines() if file else ():
        if not line.strip() or line.startswith('#'):
            continue
        name, colon, rest = line.partition(':')
        try:
            red, green, blue = (int(value) for value in rest.split(':')[0].split(','))
            legend[name.strip()] = red, green, blue
        except ValueError as error:
            if colon:
                raise UserError(
                    f'{str(file)!r} has the line {line!r}, expected NAME:R,G,B'
                ) from error
            legend[name.strip()] = None
    return legend


def read_mask(file: Path, size: Size, legend: dict) -> np.ndarray:
    """Return the labels (H, W), uint8, of a mask: positions in the legend, else its values.

    Raises:
        ValueError: If its size, format or a colour is wrong.
    """
    with Image.open(file) as image:
        check_size(image.size, size)
        if image.format == 'JPEG':
            raise ValueError('a mask in a JPEG file, which changes labels; write it as PNG')
        named = bool(legend) and None not in legend.values()
        colours = image.mode in ('RGB', 'RGBA') or (image.mode == 'P' and named)
        pixels = np.asarray(image.convert('RGB') if colours else image)
    if not colours:
        values = set(np.unique(pixels).tolist())
        if values <= {0, 255} or pixels.dtype == bool:
            return (pixels > 0).astype(np.uint8)
        if max(values) > 254 or min(values) < 0:
            raise ValueError(f'label {max(values)}, expected at most 254')
        if legend and max(values) >= len(legend):
            raise ValueError(f'label {max(values)}, but the legend has {len(legend)} classes')
        return pixels.astype(np.uint8)
    if (pixels[..., :1] == pixels).all() and not legend:
        return (pixels[..., 0] > 0).astype(np.uint8)
    if not named:
        raise ValueError('a mask of colours; name them in labelmap.txt, a line NAME:R,G,B a class')
    keys = (pixels.astype(np.int64) << [16, 8, 0]).sum(-1)
    labels = np.full(keys.shape, 255, np.uint8)
    for label, (red, green, blue) in enumerate(legend.values()):
        labels[keys == (red << 16) + (green << 8) + blue] = label
    if (labels == 255).any():
        y, x = np.argwhere(labels == 255)[0]
        found = tuple(pixels[y, x].tolist())
        raise ValueError(f'colour {found} at x {x}, y {y}, which no class has')
    return labels
