"""Checks of annotations in COCO's format, against what mmdet makes of them."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from .findings import Finding, fault, remark


def read_coco(file: str) -> dict | Finding:
    """Read an annotation file, or say what is wrong with it."""
    wrong = 'no annotation file of COCO'
    try:
        with open(file, encoding='utf-8') as stream:
            document = json.load(stream)
    except (ValueError, OSError) as error:
        return fault(wrong, f'{file} ({error})')
    if not isinstance(document, dict):
        return fault(wrong, f'{file} (not a JSON object)')
    for key in ('images', 'annotations', 'categories'):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return fault(wrong, f'{file} (without a list of {key})')
    return document


def check_coco(
    document: dict,
    classes: Sequence[str],
    with_mask: bool = False,
    evaluated: bool = False,
    filter_empty: bool = False,
    min_size: int = 0,
) -> Iterator[Finding]:
    """Compare annotations with what mmdet makes of them.

    Args:
        document: What :func:`read_coco` read.
        classes: The config's classes.
        with_mask: Whether masks are used.
        evaluated: Whether the annotations are a metric's ground truth.
        filter_empty: Whether images without objects are left out.
        min_size: Side in pixels under which images are left out.

    Yields:
        Findings; where they are is told by ids.
    """
    images = {}
    for image in document['images']:
        where = f'image {image.get("id")} ({image.get("file_name")})'
        if not complete_image(image):
            yield fault('image entry without id, file_name, width or height', where)
        elif image['id'] in images:  # mmdet gives both files' objects to one
            yield fault('duplicate image id', where)
        else:
            images[image['id']] = image
    yield from _check_categories(document['categories'], classes)

    known = {category.get('id') for category in document['categories']}
    used = {c.get('id') for c in document['categories'] if c.get('name') in classes}
    ids = Counter(note.get('id') for note in document['annotations'])
    yield from (
        fault('duplicate annotation id', f'annotation {i}') for i, count in ids.items() if count > 1
    )
    with_objects = set()
    for note in document['annotations']:
        where = f'annotation {note.get("id")}'
        if not {'image_id', 'category_id', 'area'} <= note.keys():
            yield fault('annotation without image_id, category_id or area', where)
            continue
        where += f' of image {note["image_id"]}'
        if note['image_id'] not in images:
            yield remark('annotation of an unknown image', where, 'leaves it out')
        elif note['category_id'] not in known:
            where += f' (category {note["category_id"]})'
            yield fault('annotation of an undefined category', where)
        elif note['category_id'] not in used:
            yield remark('annotation of a category that is no class', where, 'leaves it out')
        else:
            # mmdet's filter counts an image in whatever its objects' boxes are.
            with_objects.add(note['image_id'])
            yield from _check_object(note, images[note['image_id']], where, with_mask, evaluated)

    for image_id, image in images.items():
        if image_id not in with_objects:
            where = f'image {image_id} ({image["file_name"]})'
            training = 'leaves it out, if filter_empty_gt is set'
            yield remark('image without objects', where, training)
    kept = with_objects if filter_empty and not evaluated else images
    least = 0 if evaluated else min_size
    if not any(min(images[i]['width'], images[i]['height']) >= least for i in kept):
        where = f'0 of {len(images)} images have objects and are large enough'
        yield fault('nothing to train or test on', where)


def complete_image(image: dict) -> bool:
    """Whether an image entry has all that mmdet asks for."""
    sizes = [image.get('width'), image.get('height')]
    return (
        isinstance(image.get('id'), (int, str))
        and isinstance(image.get('file_name'), str)
        and all(isinstance(size, int) for size in sizes)
    )


def _check_categories(categories: list[dict], classes: Sequence[str]) -> Iterator[Finding]:
    """Compare categories with the classes: mmdet numbers the labels in the file's order."""
    for key in ('id', 'name'):
        counts = Counter(category.get(key) for category in categories)
        yield from (
            fault('duplicate category id or name', f'{key} {value!r}')
            for value, count in counts.items()
            if count > 1
        )
    names = list(dict.fromkeys(c.get('name') for c in categories if c.get('name') in classes))
    missing = [name for name in classes if name not in names]
    # mmdet moves all later labels up.
    yield from (fault('class without a category', repr(name)) for name in missing)
    expected = [name for name in classes if name in names]
    if names != expected:
        first = next(i for i, name in enumerate(expected) if name != names[i])
        where = f'{names[first]!r} where the classes have {expected[first]!r}'
        yield fault('categories in another order than the classes', where)


def _check_object(
    note: dict, image: dict, where: str, with_mask: bool, evaluated: bool
) -> Iterator[Finding]:
    """Check the box and the mask of an object."""
    box = note.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        yield fault('bbox that is not four finite numbers', where)
        return
    x, y, width, height = box
    right, bottom = x + width, y + height
    used = False
    if not _is_finite(note['area']) or note['area'] <= 0 or width < 1 or height < 1:
        yield remark('zero or negative area', where, 'leaves it out')
    elif right <= 0 or bottom <= 0 or x >= image['width'] or y >= image['height']:
        yield remark('box outside of the picture', where, 'leaves it out')
    else:
        used = True
        # Half a pixel is rounding.
        if min(x, y) < -0.5 or right > image['width'] + 0.5 or bottom > image['height'] + 0.5:
            yield remark('box partly outside of the picture', where, 'clips it in Resize')
        if note.get('iscrowd'):
            yield remark('crowd region', where, 'learns nothing from it')
    if with_mask and note.get('segmentation'):
        yield from _check_mask(note['segmentation'], image, where, evaluated)
    elif with_mask and (used or evaluated):  # a metric decodes all masks
        yield fault('annotation without a segmentation', where)


def _check_mask(mask: Any, image: dict, where: str, evaluated: bool) -> Iterator[Finding]:
    """Check the polygons or the RLE of an object."""
    if isinstance(mask, list):
        sizes = [len(polygon) if isinstance(polygon, list) else 0 for polygon in mask]
        if evaluated and sizes[0] <= 4:  # pycocotools takes the first for what all are
            yield fault('evaluated polygon of fewer than 3 points', where)
        elif any(size < 6 or size % 2 for size in sizes):
            yield remark('polygon of fewer than 3 points or odd length', where, 'leaves it out')
        return
    height, width = image['height'], image['width']
    try:
        if list(mask['size']) != [height, width]:
            yield fault("RLE mask of another size than its image's", where)
            return
        counts = mask['counts']
        runs = run_lengths(counts) if isinstance(counts, str) else counts
        # Where the runs end early, pycocotools gives what happened to be in memory.
        if min(runs) < 0 or sum(runs) != height * width:
            raise ValueError
        yield remark('mask as RLE', where, 'reads it')
    except (KeyError, TypeError, ValueError):
        yield fault('RLE mask that does not decode', where)


def run_lengths(counts: str) -> list[int]:
    """Decode COCO's compressed runs, of pixels by columns, 0 and 1 in turn.

    A number is a few characters of 5 bits each, the lowest first, from the character 0 on; 32 marks
    that more follow, 16 in the last one a negative number. From the fourth number on they are
    differences to the number before the last.

    Raises:
        ValueError: If the text ends within a number.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - ord('0')
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError(f'{counts!r} ends within a number')
    return runs


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
