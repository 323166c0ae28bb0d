"""Checks of annotations in COCO's format, against what mmdet and pycocotools make of them."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

from .findings import Finding, fault, remark

LIMIT = 2**31  # larger numbers are no pixels, and overflow in torch
FAR = 2**20  # OpenCV reads no image wider; pycocotools walks along all of a polygon's sides
NUMBERS = {int, float, bool}
UNREAD = 'no annotation file of COCO'


class Use(NamedTuple):
    """What becomes of annotations.

    Attributes:
        masks: Whether the pipeline loads masks.
        bitmaps: Whether it draws them (``poly2mask``); otherwise it takes polygons only.
        metrics: What CocoMetric scores with them as ground truth, such as ``'bbox'``.
        from_file: Whether CocoMetric reads the file itself (``ann_file``).
        classwise: Whether it scores each class.
        trained: Whether they are trained on.
        required: Whether there must be any.
    """

    masks: bool = False
    bitmaps: bool = True
    metrics: Collection[str] = ()
    from_file: bool = True
    classwise: bool = False
    trained: bool = True
    required: bool = True

    def draws(self, used: bool) -> bool:
        """Whether the mask of an object is drawn, of one that ``used`` says is not left out."""
        return 'segm' in self.metrics or (self.masks and used)


def read_coco(file: str) -> dict | Finding:
    """Read an annotation file, or say what is wrong with it."""
    try:
        with open(file, encoding='utf-8') as stream:
            document = json.load(stream)
    except (ValueError, OSError, RecursionError) as error:
        return fault(UNREAD, f'{file} ({error})')
    if not isinstance(document, dict):
        return fault(UNREAD, f'{file} (not a JSON object)')
    for key in ('images', 'annotations', 'categories'):
        entries = document.get(key)
        if key == 'annotations' and key not in document:
            continue  # the files of tests that others score have none
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return fault(UNREAD, f'{file} (without a list of {key})')
    return document


def check_coco(
    document: dict,
    classes: Sequence[str],
    with_mask: bool = False,
    filter_empty: bool = False,
    min_size: int = 0,
    use: Use | None = None,
) -> Iterator[Finding]:
    """Compare annotations with what mmdet makes of them.

    Args:
        document: What ``read_coco`` read.
        classes: The config's classes.
        with_mask: Whether masks are used in training.
        filter_empty: Whether images without objects are left out.
        min_size: Side in pixels under which images are left out.
        use: What becomes of the annotations, in place of ``with_mask``.

    Yields:
        Findings; where they are is told by ids.
    """
    use = use or Use(masks=with_mask)
    images: dict[Any, dict] = {}
    for image in document['images']:
        where = f'image {image.get("id")!r} ({image.get("file_name")!r})'
        if not complete_image(image):
            size = f'{image.get("width")!r} x {image.get("height")!r}'
            kind = 'image entry without id, file_name, width or height'
            yield fault(kind, f'{where}, {size}')
        elif image['id'] in images:  # mmdet gives both files' objects to one
            yield fault('duplicate image id', where)
        else:
            images[image['id']] = image
    categories = document['categories']
    yield from _check_categories(categories, classes)
    if use.metrics:
        yield from _check_sortable('image', images)
        ids = (category.get('id') for category in categories)
        yield from _check_sortable('category', [i for i in ids if _is_id(i)])
        if use.classwise:
            yield from _check_classwise(categories)

    if 'annotations' in document:
        yield from _check_annotations(document, images, classes, use)
    elif use.required:
        yield fault(UNREAD, 'it has no list of annotations')
    else:
        yield remark('no annotations', 'it has no list of annotations', 'tests, without scores')
    if not kept_images(document, classes, filter_empty, min_size):
        where = f'0 of {len(images)} images have objects and are large enough'
        yield fault('nothing to train or test on', where)


def complete_image(image: dict) -> bool:
    """Whether an image entry has all that mmdet asks for."""
    sizes = [image.get('width'), image.get('height')]
    return (
        _is_id(image.get('id'))
        and isinstance(image.get('file_name'), str)
        and all(_is_finite(size) and size > 0 and size % 1 == 0 for size in sizes)
    )


def kept_images(
    document: dict, classes: Sequence[str], filter_empty: bool, min_size: int
) -> list[dict]:
    """The image entries that mmdet's filter keeps, in their order."""
    kept = [image for image in document['images'] if complete_image(image)]
    if filter_empty:
        # The filter counts an image in whatever its objects' boxes are.
        used = _used(document['categories'], classes)
        with_objects = {
            note['image_id']
            for note in document.get('annotations', [])
            if _is_id(note.get('image_id'))
            and _is_id(note.get('category_id'))
            and note['category_id'] in used
        }
        kept = [image for image in kept if image['id'] in with_objects]
    return [image for image in kept if min(image['width'], image['height']) >= min_size]


def _used(categories: list[dict], classes: Sequence[str]) -> dict[Any, str]:
    """Names of the categories that are classes, by their ids."""
    return {c['id']: c['name'] for c in categories if _is_id(c.get('id')) and _is_class(c, classes)}


def _is_class(category: dict, classes: Sequence[str]) -> bool:
    return isinstance(category.get('name'), str) and category['name'] in classes


def _check_categories(categories: list[dict], classes: Sequence[str]) -> Iterator[Finding]:
    """Compare categories with the classes: mmdet numbers the labels in the file's order."""
    for category in categories:
        if not _is_id(category.get('id')) or not isinstance(category.get('name'), str):
            where = f'id {category.get("id")!r}, name {category.get("name")!r}'
            yield fault('category without an id or a name', where)
    for key in ('id', 'name'):
        counts = Counter(category[key] for category in categories if _is_id(category.get(key)))
        yield from (
            fault('duplicate category id or name', f'{key} {value!r}')
            for value, count in counts.items()
            if count > 1
        )
    names = list(dict.fromkeys(c['name'] for c in categories if _is_class(c, classes)))
    if classes and not names:
        found = ', '.join(repr(category.get('name')) for category in categories[:3])
        where = f'none of the {len(classes)} has one, the first is {classes[0]!r}; the file has '
        where += f'{found or "no categories"}{" ..." * (len(categories) > 3)}'
        yield fault('class without a category', where)
        return
    alike = {str(category.get('name')).casefold(): category.get('name') for category in categories}
    for name in classes:  # mmdet moves all later labels up
        if name not in names:
            other = alike.get(str(name).casefold())
            hint = f' (the file has {other!r})' if other is not None else ''
            yield fault('class without a category', f'{name!r}{hint}')
    expected = [name for name in classes if name in names]
    if names != expected:
        first = next(i for i, name in enumerate(expected) if name != names[i])
        where = f'{names[first]!r} where the classes have {expected[first]!r}'
        yield fault('categories in another order than the classes', where)


def _check_sortable(what: str, ids: Iterable) -> Iterator[Finding]:
    """Check that pycocotools can sort ids."""
    kinds = {isinstance(value, str): value for value in ids}
    if len(kinds) == 2:
        where = f'{what} ids such as {kinds[True]!r} and {kinds[False]!r}'
        yield fault('texts and numbers as ids of evaluated data', where)


def _check_classwise(categories: list[dict]) -> Iterator[Finding]:
    """Check that CocoMetric finds a category again by its id alone."""
    for category in categories:
        value = category.get('id')
        if type(value) is not int and not (isinstance(value, str) and len(value) == 1):
            kind = 'category id that is no integer, evaluated with classwise'
            yield fault(kind, f'id {value!r}')


def _check_annotations(
    document: dict, images: dict[Any, dict], classes: Sequence[str], use: Use
) -> Iterator[Finding]:
    """Check the annotations of the complete images."""
    notes = document['annotations']
    known = {c['id'] for c in document['categories'] if _is_id(c.get('id'))}
    used = _used(document['categories'], classes)
    ids = Counter(note['id'] for note in notes if _is_id(note.get('id')))
    yield from (
        fault('duplicate annotation id', f'annotation {i!r}') for i, n in ids.items() if n > 1
    )
    with_objects, found = set(), set()
    texts = [{str(i): i for i in known_ids} for known_ids in (images, known)]
    for note in notes:
        where = f'annotation {note.get("id")!r}'
        if not _is_id(note.get('id')):
            yield fault('annotation without an id', where)
            continue
        missing = [key for key in ('image_id', 'category_id') if not _is_id(note.get(key))]
        if type(note.get('area')) not in NUMBERS:
            missing.append('area')
        if missing:
            where += f' ({missing[0]} {note[missing[0]]!r})' if missing[0] in note else ''
            yield fault('annotation without image_id, category_id or area', where)
            continue
        image_id, category = note['image_id'], note['category_id']
        where += f' of image {image_id!r}'
        if image_id not in images:
            if other := _of_another_kind(image_id, texts[0]):
                yield fault('image_id of another kind than the id', f'{where} ({other})')
            else:
                yield remark('annotation of an unknown image', where, 'leaves it out')
            continue
        if category in used:
            with_objects.add(image_id)
            found.add(category)
        elif category in known:
            yield remark('annotation of a category that is no class', where, 'leaves it out')
        else:
            other = _of_another_kind(category, texts[1]) or f'category {category!r}'
            yield fault('annotation of an undefined category', f'{where} ({other})')
        yield from _check_object(note, images[image_id], where, category in used, use)

    for image_id, image in images.items():
        if image_id not in with_objects:
            where = f'image {image_id!r} ({image["file_name"]!r})'
            training = 'leaves it out, if filter_empty_gt is set'
            yield remark('image without objects', where, training)
    if found:
        training = 'never learns it' if use.trained else 'gives it no score'
        for i, name in used.items():
            if i not in found:
                yield remark('class without objects', repr(name), training)


def _of_another_kind(value: Any, texts: dict[str, Any]) -> str:
    """Tell of an id that would be the same, were it not a text or not a number; else ''."""
    if str(value) not in texts:
        return ''
    other = texts[str(value)]
    kinds = ['a text' if isinstance(i, str) else 'a number' for i in (value, other)]
    return f'{value!r} is {kinds[0]}, but the id {other!r} is {kinds[1]}'


def _check_object(
    note: dict, image: dict, where: str, is_class: bool, use: Use
) -> Iterator[Finding]:
    """Check the box, the mask and the flags of an object, as far as they are read."""
    evaluated = bool(use.metrics) and (is_class or 'proposal_fast' in use.metrics)
    ignored = note.get('ignore')
    if ignored:
        yield remark('annotation with ignore set', where, 'leaves it out')
        if not evaluated:
            return
    box = note.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        yield fault('bbox that is not four finite numbers', f'{where} ({box!r})')
        return
    x, y, width, height = box
    right, bottom = x + width, y + height
    used = False
    if note['area'] <= 0 or width < 1 or height < 1:
        yield remark('zero or negative area', where, 'leaves it out')
    elif right <= 0 or bottom <= 0 or x >= image['width'] or y >= image['height']:
        yield remark('box outside of the picture', where, 'leaves it out')
    elif is_class and not ignored:
        used = True
        # Half a pixel is rounding.
        if min(x, y) < -0.5 or right > image['width'] + 0.5 or bottom > image['height'] + 0.5:
            yield remark('box partly outside of the picture', where, 'clips it in Resize')
        if note.get('iscrowd'):
            yield remark('crowd region', where, 'learns nothing from it')
    if not abs(note['area']) < math.inf:
        yield remark('area that is no finite number', where, 'takes the object all the same')
    if used or evaluated:
        yield from _check_crowd(note, where, evaluated and use.from_file)
    if evaluated and use.from_file:
        yield from _check_score(note, where)
    if use.draws(used) and (used or evaluated):
        yield from _check_mask(note.get('segmentation'), image, where, used, use)


def _check_crowd(note: dict, where: str, evaluated: bool) -> Iterator[Finding]:
    value = note.get('iscrowd')
    if value is None:
        if evaluated:
            kind = 'evaluated annotation without iscrowd'
            yield fault(kind, where, 'stops at the first validation or test')
    elif type(value) not in NUMBERS or value not in (0, 1):
        kind = 'iscrowd other than 0 or 1'
        yield fault(kind, f'{where} ({value!r})', 'takes it for a crowd region')


def _check_score(note: dict, where: str) -> Iterator[Finding]:
    """Check that pycocotools can note down which object a box fits, a number other than 0."""
    try:
        if float(note['id']) == 0:
            yield remark('evaluated annotation with id 0', where, 'counts its finds as wrong')
    except (ValueError, OverflowError):
        kind = 'evaluated annotation whose id is no number'
        yield fault(kind, where, 'stops at the first validation or test')


def _check_mask(mask: Any, image: dict, where: str, used: bool, use: Use) -> Iterator[Finding]:
    """Check the polygons or the RLE of an object."""
    if not mask:
        yield fault('annotation without a segmentation', where)
    elif isinstance(mask, list):
        yield from _check_polygons(mask, where, 'segm' in use.metrics)
    elif not isinstance(mask, dict):
        kind = 'segmentation that is neither polygons nor RLE'
        yield fault(kind, f'{where} (of kind {type(mask).__name__})')
    elif use.bitmaps or 'segm' in use.metrics:
        yield from _check_rle(mask, image, where)
    else:
        yield remark('mask as RLE with poly2mask=False', where, 'learns nothing from it')


def _check_polygons(mask: list, where: str, evaluated: bool) -> Iterator[Finding]:
    if any(isinstance(polygon, dict) for polygon in mask):
        yield fault('RLE mask within a list', where, 'learns nothing from it')
    elif all(type(value) in NUMBERS for value in mask):
        kind = 'polygon that is not within a list'
        yield fault(kind, f'{where}; write [[x1, y1, ...]]')
    elif not all(map(_is_polygon, mask)):
        yield fault('polygon that is no list of coordinates', where)
    elif evaluated and len(mask[0]) <= 4:  # pycocotools takes the first for what all are
        yield fault('evaluated polygon of fewer than 3 points', where)
    elif any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
        yield remark('polygon of fewer than 3 points or odd length', where, 'leaves it out')


def _is_polygon(value: Any) -> bool:
    """Whether a value is a list of coordinates; of NaN, the sum tells."""
    if not isinstance(value, list) or not NUMBERS.issuperset(map(type, value)):
        return False
    return not value or (max(map(abs, value)) < FAR and not math.isnan(sum(value)))


def _check_rle(mask: dict, image: dict, where: str) -> Iterator[Finding]:
    height, width = image['height'], image['width']
    try:
        if list(mask['size']) != [height, width]:
            yield fault("RLE mask of another size than its image's", where)
            return
        counts = mask['counts']
        runs = run_lengths(counts) if isinstance(counts, str) else counts
        # Where the runs end early, pycocotools gives what happened to be in memory.
        whole = NUMBERS.issuperset(map(type, runs)) and not any(run % 1 for run in runs)
        if not whole or min(runs) < 0 or sum(runs) != height * width:
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
        ValueError: If the text ends within a number or has a character that stands for none.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - ord('0')
        if not 0 <= code < 64:
            raise ValueError(f'{counts!r} has the character {character!r}')
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError(f'{counts!r} ends within a number')
    return runs


def _is_id(value: object) -> bool:
    """Whether a value tells entries apart: a text or a number, but NaN, which differs from itself.

    Infinity is no number of JSON, either.
    """
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) < LIMIT
