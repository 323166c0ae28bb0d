"""CVAT for images 1.1: one XML file with all pictures."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

from ..errors import UserError
from .files import SPLITS, SUFFIXES, documents, files_below, read_xml
from .records import Found, Item, Shape, Size, check_size, polygon


def is_format(source: Path) -> bool:
    """Return whether there is an XML file with <annotations>."""
    return any(b'<annotations' in file.read_bytes()[:2000] for file in documents(source, '.xml'))


def read(source: Path) -> Found:
    """Find the pictures of each XML file, next to it or in its folder images.

    Raises:
        UserError: If a file is no XML or is of a video.
    """
    files = []
    classes: dict[str, None] = {}
    for file in documents(source, '.xml'):
        try:
            root = read_xml(file)
        except ValueError as error:
            raise UserError(f'{str(file)!r} is {error}; export it again') from error
        if root.find('track') is not None:
            raise UserError(
                f'{str(file)!r} holds tracks of a video; export the task as CVAT for images'
            )
        files.append((file, root))
        classes |= {label.findtext('name') or '': None for label in root.iter('label')}
    return Found(_items(files), tuple(filter(None, classes)) or None)


def _items(files: list[tuple[Path, Element]]) -> Iterator[Item]:
    for file, root in files:
        folder = file.parent / 'images' if (file.parent / 'images').is_dir() else file.parent
        images = files_below(folder, *SUFFIXES)
        rest = {path.relative_to(folder).as_posix(): path for path in images}
        for node in root.iter('image'):
            name = node.get('name') or ''
            split = SPLITS.get((node.get('subset') or '').lower(), '')
            image = rest.pop(name, folder / name)
            yield Item(image, name, file, partial(parse_image, node), split)
        for name, image in rest.items():
            yield Item(image, name, file, _unlabelled)


def _unlabelled(size: Size) -> list[Shape]:
    raise FileNotFoundError


def parse_image(node: Element, size: Size) -> list[Shape]:
    """Read one image of the file.

    Raises:
        ValueError: If it is damaged, or of a picture of another size.
    """
    check_size((int(node.get('width') or size[0]), int(node.get('height') or size[1])), size)
    shapes = []
    for each in node:
        name = each.get('label') or ''
        if each.tag == 'box':
            edges = (each.get(key) or 'nan' for key in ('xtl', 'ytl', 'xbr', 'ybr'))
            left, top, right, bottom = map(float, edges)
            if float(each.get('rotation') or 0):
                raise ValueError(f'a rotated box of {name!r}; draw a polygon')
            shapes.append(Shape(name, (left, top, right, bottom)))
        elif each.tag == 'polygon':
            pairs = (pair.split(',') for pair in (each.get('points') or '').split(';') if pair)
            shapes.append(polygon(name, [(float(x), float(y)) for x, y in pairs]))
        elif each.tag != 'tag':
            raise ValueError(f'a <{each.tag}>, expected <box> or <polygon>')
    return shapes
