"""Find images and label files below a folder."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml import ElementTree

from ..errors import UserError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
SPLITS = dict(
    train='train', training='train', val='val', valid='val', validation='val', test='test'
)


def files_below(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files with these suffixes below a folder, sorted, without hidden ones."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.')]
        found += [
            Path(parent, name)
            for name in names
            if name.lower().endswith(suffixes) and not name.startswith('.')
        ]
    return sorted(found)


def split_of(path: Path) -> str:
    """Return the split that the name of a folder or file in a relative path says, else ''."""
    names = (part.partition('.')[0].lower() for part in path.parts)
    return next((SPLITS[name] for name in names if name in SPLITS), '')


def by_stem(folder: Path) -> dict[str, Path]:
    """Return the images below a folder by their name without suffix.

    Raises:
        UserError: If two images have the same name.
    """
    found: dict[str, Path] = {}
    for file in files_below(folder, *SUFFIXES):
        other = found.setdefault(file.stem, file)
        if other != file:
            raise UserError(
                f'{str(other)!r} and {str(file)!r} have the same name, so that labels fit both; '
                'rename one'
            )
    return found


def read_xml(file: Path) -> Element:
    """Parse an XML file, or raise a ValueError."""
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f'no XML ({error})') from error


def read_json(file: Path) -> Any:
    """Parse a JSON file, or raise a ValueError."""
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f'no JSON ({error})') from error


def documents(source: Path, suffix: str) -> Iterator[Path]:
    """Yield the source if it is a file of this suffix, else such files below it."""
    if source.is_dir():
        yield from files_below(source, suffix)
    elif source.name.lower().endswith(suffix):
        yield source
