"""Readers of label formats, one format a file, and a writer of the layouts that recipes read."""

from pathlib import Path

from ..errors import UserError
from . import coco, cvat, label_studio, labelme, masks, voc, yolo
from .records import Found, Item, Picture, Shape
from .split import split_pictures
from .take import Taken, take
from .write import write_detection, write_segmentation

__all__ = [
    'FORMATS',
    'Found',
    'Item',
    'Picture',
    'Shape',
    'Taken',
    'find_format',
    'split_pictures',
    'take',
    'write_detection',
    'write_segmentation',
]

FORMATS = {
    'yolo': yolo,
    'voc': voc,
    'labelme': labelme,
    'cvat': cvat,
    'label-studio': label_studio,
    'coco': coco,
    'masks': masks,
}


def find_format(source: Path) -> str:
    """Return the format of the labels in a folder or file.

    Raises:
        FileNotFoundError: If the source does not exist.
        UserError: If no format or several are found.
    """
    if not source.exists():
        raise FileNotFoundError(f'{str(source)!r} does not exist; check the path')
    names = [name for name, reader in FORMATS.items() if reader.is_format(source)]
    if len(names) == 1:
        return names[0]
    found = f'labels of {" and ".join(names)}' if names else 'no labels of a known format'
    raise UserError(
        f'{str(source)!r} holds {found}, expected one of {", ".join(FORMATS)}; '
        'name it with --format'
    )
