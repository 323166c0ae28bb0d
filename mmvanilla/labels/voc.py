"""Pascal VOC: an XML file a picture."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .files import by_stem, files_below, read_xml, split_of
from .records import Found, Item, Shape, Size, check_size


def is_format(source: Path) -> bool:
    """Return whether the folder has XML files with an <annotation>."""
    files = files_below(source, '.xml') if source.is_dir() else []
    return any(b'<annotation' in file.read_bytes()[:2000] for file in files[:20]) and not any(
        b'<annotations' in file.read_bytes()[:2000] for file in files[:20]
    )


def read(source: Path) -> Found:
    """Find pictures of a folder in VOC's layout, or of images and XML files in any folders."""
    return Found(_items(source), None)


def _items(source: Path) -> Iterator[Item]:
    splits: dict[str, str] = {}
    for file in files_below(source, '.txt'):
        if file.parent.name == 'Main' and file.stem in ('train', 'val', 'test'):
            splits |= {line.split()[0]: file.stem for line in file.read_text().splitlines() if line}
    images = by_stem(source)
    for file in files_below(source, '.xml'):
        image = images.pop(file.stem, file.with_suffix('.jpg'))
        split = splits.get(file.stem) or split_of(file.relative_to(source))
        yield Item(image, image.name, file, partial(parse_file, file), split)
    for image in images.values():
        label = image.with_suffix('.xml')
        yield Item(image, image.name, label, partial(parse_file, label))


def parse_file(file: Path, size: Size) -> list[Shape]:
    """Read an XML file.

    Raises:
        ValueError: If it is damaged, or of a picture of another size.
    """
    root = read_xml(file)
    sides = tuple(int(float(root.findtext(f'size/{side}') or 0)) for side in ('width', 'height'))
    check_size(sides if any(sides) else size, size)
    shapes = []
    for node in root.iter('object'):
        name, box = (node.findtext('name') or '').strip(), node.find('bndbox')
        if not name or box is None:
            raise ValueError('an object without a name or bndbox')
        corners = [box.findtext(key) for key in ('xmin', 'ymin', 'xmax', 'ymax')]
        left, top, right, bottom = (float(text or 'nan') for text in corners)
        if right <= left or bottom <= top:
            raise ValueError(f'a box of {name!r} with corners in the wrong order')
        # VOC counts pixels from 1; mmdet and supervision subtract it from all edges, too.
        crowd = (node.findtext('difficult') or '0').strip() == '1'
        shapes.append(Shape(name, (left - 1, top - 1, right - 1, bottom - 1), (), crowd))
    return shapes
