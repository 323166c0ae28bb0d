"""YOLO: a text file a picture, with class, centre and size, or class and polygon, in fractions."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml

from ..errors import UserError
from .files import SPLITS, SUFFIXES, files_below, split_of
from .records import Found, Item, Shape, Size, polygon

# Text files of exports that hold no labels.
OTHERS = ('classes', 'labelmap', 'legend', 'obj', 'readme', 'requirements', 'train', 'val', 'test')
LINE = re.compile(rb'\s*\d+(\s+[-+.\deE]+){4,}\s')


def is_format(source: Path) -> bool:
    """Return whether there is a data.yaml, or text files of numbers."""
    if source.suffix in ('.yaml', '.yml'):
        return True
    if not source.is_dir():
        return False
    files = _text_files(source)[:100]
    return _yaml(source) is not None or any(LINE.match(f.read_bytes() + b'\n') for f in files)


def read(source: Path) -> Found:
    """Find the pictures of a data.yaml, or of a folder with one or with classes.txt.

    Raises:
        UserError: If the classes are missing.
    """
    file = source if source.is_file() else _yaml(source)
    root = source.parent if source.is_file() else source
    config: dict = {}
    if file:
        try:
            config = yaml.safe_load(file.read_bytes()) or {}
        except yaml.YAMLError as error:
            raise UserError(f'{str(file)!r} is no YAML ({error}); correct it') from error
    names = config.get('names')
    lists = (root / name for name in ('classes.txt', 'obj.names'))
    listed = next((path for path in lists if path.exists()), None)
    if names is None and listed:
        names = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        found = f'names {sorted(names)}' if isinstance(names, dict) else 'no names of classes'
        raise UserError(
            f'{str(file or source)!r} has {found}, expected those of 0, 1, 2, ...; write them into '
            'the names of a data.yaml, or one a line into classes.txt'
        )
    classes = tuple(map(str, names))
    return Found(_items(root, file, config, classes), classes)


def _yaml(folder: Path) -> Path | None:
    """Return the folder's YAML file that lists classes."""
    files = sorted([*folder.glob('*.yaml'), *folder.glob('*.yml')])
    return next((file for file in files if b'names' in file.read_bytes()), None)


def _text_files(folder: Path) -> list[Path]:
    return [f for f in files_below(folder, '.txt') if f.stem.lower() not in OTHERS]


def _items(root: Path, file: Path | None, config: dict, classes: tuple) -> Iterator[Item]:
    """Yield each image of the splits, else of the folder, with the text file of its name."""
    parse = partial(parse_file, classes)
    labels = {label.stem: label for label in _text_files(root)}
    images: dict[Path, str] = {}
    if file:
        base = (file.parent / str(config.get('path') or '')) if config.get('path') else file.parent
        base = base if base.exists() else file.parent
        for key, split in SPLITS.items():
            entries = config.get(key) or []
            for entry in [entries] if isinstance(entries, str) else entries:
                images |= dict.fromkeys(_listed(base, file.parent, entry, file), split)
    if not images:
        images = {path: split_of(path.relative_to(root)) for path in files_below(root, *SUFFIXES)}
    used = set()
    for image, split in images.items():
        # The label's folder has the image's path, with `labels` in place of the last `images`.
        text = str(image.with_suffix('.txt'))
        head, sep, tail = text.rpartition('/images/')
        path = Path(f'{head}/labels/{tail}') if sep else Path(text)
        if not path.exists() and not sep:
            path = labels.get(image.stem, path)
        used.add(path.resolve())
        name = tail.removesuffix('.txt') + image.suffix if sep else image.name
        yield Item(image, name, path, partial(parse, path), split)
    for path in labels.values():
        if path.resolve() not in used:
            yield Item(path.with_suffix('.jpg'), path.stem, path, partial(parse, path))


def _listed(base: Path, other: Path, entry: str, file: Path) -> list[Path]:
    """Return the images of a folder or list of files in a data.yaml."""
    # Roboflow writes ../train/images for a folder next to the YAML file.
    choices = [base / entry, other / entry, other / entry.removeprefix('../')]
    found = next((path for path in choices if path.exists()), None)
    if found is None:
        raise UserError(f'{str(file)!r} names {entry!r}, which does not exist; correct the path')
    if found.is_dir():
        images = files_below(found, *SUFFIXES)
        if not images:
            raise UserError(f'{str(found)!r} of {str(file)!r} is empty; remove it from the file')
        return images
    lines = found.read_text().split('\n')
    return [(found.parent / line.strip()) for line in lines if line.strip()]


def parse_file(classes: tuple[str, ...], file: Path, size: Size) -> list[Shape]:
    """Read a text file; a picture without one has no objects.

    Raises:
        ValueError: If a line is damaged.
    """
    if not file.exists():
        return []
    shapes = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            if line.strip():
                shapes.append(_parse_line(classes, line.split(), size))
        except ValueError as error:
            raise ValueError(f'line {number}: {error}') from error
    return shapes


def _parse_line(classes: tuple[str, ...], words: list[str], size: Size) -> Shape:
    label, *values = (float(word) for word in words)
    if label != int(label) or not 0 <= label < len(classes):
        raise ValueError(f'class {words[0]}, expected 0 to {len(classes) - 1}')
    if any(not -0.01 <= value <= 1.01 for value in values):
        raise ValueError('a coordinate outside 0 to 1; coordinates are fractions of the image')
    name = classes[int(label)]
    pixels = [value * size[i % 2] for i, value in enumerate(values)]
    if len(values) == 4:
        x, y, width, height = pixels
        return Shape(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) >= 6 and len(values) % 2 == 0:
        return polygon(name, list(zip(pixels[::2], pixels[1::2], strict=True)))
    raise ValueError(f'{len(words)} numbers, expected 5, or 7 and more of a polygon')
