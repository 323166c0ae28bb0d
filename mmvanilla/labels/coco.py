"""COCO: a JSON file of images, annotations and categories for each split."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from ..datasets.shapes import trace
from ..errors import UserError
from .files import SUFFIXES, documents, files_below, read_json, split_of
from .records import Found, Item, Shape, Size, check_size

KEYS = (b'"images"', b'"annotations"', b'"categories"')


def is_format(source: Path) -> bool:
    """Return whether there is a JSON file with images, annotations and categories."""
    return any(map(_is_coco, documents(source, '.json')))


def _is_coco(file: Path) -> bool:
    content = file.read_bytes()
    return all(key in content for key in KEYS)


def read(source: Path) -> Found:
    """Find the pictures of all JSON files; classes keep the order of the category ids.

    Raises:
        UserError: If a file is damaged, or two files give an id different names.
    """
    found = []
    names: dict[int, str] = {}
    for file in filter(_is_coco, documents(source, '.json')):  # not captions
        try:
            document = read_json(file)
            categories = {each['id']: str(each['name']) for each in document['categories']}
            used = Counter(each['category_id'] for each in document['annotations'])
            named = {each['id']: each['file_name'] for each in document['images']}
        except (KeyError, TypeError, ValueError) as error:
            text = f'{str(file)!r} is not in the format of COCO ({error})'
            raise UserError(f'{text}; correct or remove it') from error
        # Roboflow adds the name of the project as a category without objects.
        for each in document['categories']:
            if each.get('supercategory') == 'none' and not used[each['id']] and len(categories) > 1:
                del categories[each['id']]
        for i, name in categories.items():
            if names.setdefault(i, name) != name:
                raise UserError(
                    f'category {i} is {name!r} in {str(file)!r} and {names[i]!r} in another file; '
                    'import the files one by one'
                )
        if len(named) < len(document['images']):
            raise UserError(f'{str(file)!r} has several images of one id; give each its own')
        found.append((file, document))
    folder = source if source.is_dir() else source.parent
    classes = tuple(dict.fromkeys(names[i] for i in sorted(names)))
    return Found(chain.from_iterable(_items(folder, *each, names) for each in found), classes)


def _items(folder: Path, file: Path, document: dict, names: dict) -> Iterator[Item]:
    """Yield the images of a file, which lie next to it or in the folder of the split."""
    split = split_of(file.relative_to(folder)) or _split_in_name(file)
    notes: dict[object, list[dict]] = {}
    for note in document['annotations']:
        notes.setdefault(note['image_id'], []).append(note)
    files = files_below(folder, *SUFFIXES)
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(path.name, []).append(path)
    for image in document['images']:
        name = str(image['file_name'])
        same = [p for p in by_name.get(Path(name).name, ()) if p.as_posix().endswith(f'/{name}')]
        # Other splits may have an image of the same name.
        nearest = sorted(same, key=lambda p: split_of(p.relative_to(folder)) != split)
        path = nearest[0] if nearest else folder / name
        labels = notes.pop(image['id'], [])
        yield Item(path, name, file, partial(parse_image, image, labels, names), split)
    for i, labels in notes.items():
        missing = folder / f'image id {i}'
        yield Item(missing, missing.name, file, partial(parse_image, {}, labels, names), split)


def _split_in_name(file: Path) -> str:
    """Return the split in names such as instances_train2017.json."""
    return next((split for split in ('train', 'val', 'test') if split in file.stem.lower()), '')


def parse_image(image: dict, notes: list[dict], names: dict, size: Size) -> list[Shape]:
    """Read the annotations of one image.

    Raises:
        ValueError: If one is damaged, or of a picture of another size.
    """
    check_size((image.get('width', size[0]), image.get('height', size[1])), size)
    return [_shape(note, names, size) for note in notes]


def _shape(note: dict, names: dict, size: Size) -> Shape:
    where = f'annotation {note.get("id", "")}'
    if note['category_id'] not in names:
        raise ValueError(f'{where} of category {note["category_id"]}, which does not exist')
    name, crowd = names[note['category_id']], bool(note.get('iscrowd'))
    outline, box = note.get('segmentation') or [], note.get('bbox')
    if isinstance(outline, dict):
        outline = _polygons(outline, size)
    if any(len(points) < 6 or len(points) % 2 for points in outline):
        raise ValueError(f'{where} has a polygon of fewer than three points')
    if box is None or len(box) != 4:
        raise ValueError(f'{where} has no bbox of four numbers')
    x, y, width, height = box
    polygons = tuple(tuple(map(float, points)) for points in outline)
    return Shape(name, (x, y, x + width, y + height), polygons, crowd)


def _polygons(encoded: dict, size: Size) -> list[list[float]]:
    """Return the outlines of a run-length encoded mask."""
    from pycocotools import mask

    if list(encoded.get('size', ())) != [size[1], size[0]]:
        raise ValueError(f'a mask of size {encoded.get("size")}, expected {[size[1], size[0]]}')
    if isinstance(encoded['counts'], list):
        encoded = mask.frPyObjects(encoded, *encoded['size'])
    pixels = np.ascontiguousarray(mask.decode(encoded))
    outlines = trace(pixels)
    return [each.ravel().tolist() for each in outlines if cv2.contourArea(np.float32(each))]
