"""LabelMe: a JSON file a picture, with polygons, rectangles and circles."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PureWindowsPath

from .files import by_stem, documents, read_json, split_of
from .records import Found, Item, Shape, Size, check_size, polygon

CIRCLE = 64  # corners of a circle's polygon


def is_format(source: Path) -> bool:
    """Return whether the folder has JSON files with shapes."""
    files = list(documents(source, '.json'))[:20] if source.is_dir() else []
    return any(b'"shapes"' in (text := file.read_bytes()) and b'"points"' in text for file in files)


def read(source: Path) -> Found:
    """Find images and JSON files of the same names."""
    return Found(_items(source), None)


def _items(source: Path) -> Iterator[Item]:
    images = by_stem(source)
    for file in documents(source, '.json'):
        image = images.pop(file.stem, file.with_suffix('.jpg'))
        split = split_of(file.relative_to(source))
        yield Item(image, image.name, file, partial(parse_file, file), split)
    for image in images.values():
        label = image.with_suffix('.json')
        yield Item(image, image.name, label, partial(parse_file, label))


def parse_file(file: Path, size: Size) -> list[Shape]:
    """Read a JSON file.

    Raises:
        ValueError: If it is damaged, or of a picture of another size.
    """
    document = read_json(file)
    if not isinstance(document, dict) or not isinstance(document.get('shapes'), list):
        raise ValueError('no list of shapes')
    sides = document.get('imageWidth'), document.get('imageHeight')
    check_size(size if None in sides else sides, size)
    path = PureWindowsPath(str(document.get('imagePath') or file.stem))  # with \ or /
    if path.stem != file.stem:
        raise ValueError(f'it is of image {path.name!r}')
    return [_shape(shape) for shape in document['shapes']]


def _shape(shape: dict) -> Shape:
    try:
        name, form = str(shape['label']), shape.get('shape_type', 'polygon')
        points = [(float(x), float(y)) for x, y in shape['points']]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f'a shape without label or points ({error})') from error
    if form == 'rectangle' and len(points) in (2, 4):
        xs, ys = zip(*points, strict=True)
        return Shape(name, (min(xs), min(ys), max(xs), max(ys)))
    if form == 'circle' and len(points) == 2:
        (x, y), radius = points[0], math.dist(*points)
        angles = (2 * math.pi * i / CIRCLE for i in range(CIRCLE))
        points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        return polygon(name, points)
    if form == 'polygon':
        return polygon(name, points)
    raise ValueError(f'a shape of type {form!r}, expected polygon, rectangle or circle')
