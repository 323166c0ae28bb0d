"""Annotation files against the loaded images and objects."""

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import list_from_file

from .source import EMPTY, Source

OBJECT = re.compile(rb'<object\b.*?<name>(.*?)</name>', re.DOTALL)
SIDE = re.compile(rb'<(width|height)>\s*(\d+)')
IGNORED = 'marked as crowd, difficult or to be ignored'
ELSE = 'for another reason'
CORNER = 'write bbox as x and y of the upper left corner, width and height, all in pixels'


def read_xml(leaf: Any) -> dict:
    """Read the XML files of a list as if they were one file in COCO's format."""
    images, annotations = [], []
    for i in list_from_file(leaf.ann_file):
        file = Path(leaf.sub_data_root, leaf.ann_subdir, f'{i}.xml')
        content = file.read_bytes() if file.exists() else b''
        sides = {side.decode(): int(value) for side, value in SIDE.findall(content)}
        images.append(dict(id=i, file_name=file.name, **sides))
        names = [name.decode() for name in OBJECT.findall(content)]
        annotations += [dict(image_id=i, category_id=name) for name in names]
    labels = {each['category_id'] for each in annotations}
    categories = [dict(id=name, name=name) for name in labels]
    return dict(images=images, annotations=annotations, categories=categories)


def compare_annotations(leaf: Any, document: dict, loaded: Counter, source: Source) -> None:
    """Compare a document in COCO's format with the number of loaded objects by image id."""
    images, annotations = document['images'], document.get('annotations') or []
    names = {category['id']: category['name'] for category in document['categories']}
    if getattr(leaf, '_indices', None) is not None:  # the user's choice is no loss
        images = [image for image in images if image['id'] in loaded]
        annotations = [each for each in annotations if each['image_id'] in loaded]
    labels = getattr(leaf, 'cat2label', None) or {}
    _find_misspelt(names.values(), source)
    source.find_renamed({names[i]: label for i, label in labels.items() if i in names})
    ids = {i for i, name in names.items() if i in labels or name in source.classes}
    used = [each for each in annotations if each['category_id'] in ids]
    all_found = set(source.classes) <= set(names.values())
    unused = Counter(each['category_id'] for each in annotations if each['category_id'] not in ids)
    _count_unused(unused, names, all_found, source)
    losses = sum(n for key, n in source.lost.items() if key.loss)
    source.raw_images, source.raw_objects = len(images), len(used) + losses

    by_id = {image['id']: image for image in images}
    raw = Counter(map(itemgetter('image_id'), used))
    _count_objects(used, raw, loaded, by_id, source)
    smallest = (getattr(leaf, 'filter_cfg', None) or {}).get('min_size', 0)
    for i in by_id.keys() - loaded.keys():
        image, reason = by_id[i], ELSE
        if not raw[i]:
            reason = EMPTY
        elif min(image.get('width', smallest), image.get('height', smallest)) < smallest:
            reason = f'with a side under min_size={smallest} pixels'
        source.lose('images', reason, _file(image), reason != EMPTY or not all_found)
    source.lose('images', 'with an id of another image', '', True, len(images) - len(by_id))
    _find_files_twice(images, source)


def _count_unused(unused: Counter, names: Mapping, all_found: bool, source: Source) -> None:
    """Count objects of categories that no class of the config names, by category id."""
    for i, number in unused.items():
        loss = i not in names or not all_found
        reason = 'no class of the config' if i in names else 'not in the file'
        reason = f'of a category that is {reason}'
        source.lose('objects', reason, repr(names.get(i, i)), loss, number)


def _count_objects(
    used: list[dict], raw: Counter, loaded: Counter, images: Mapping[Any, dict], source: Source
) -> None:
    """Count the objects that were not loaded, by reason.

    Args:
        used: Annotations of the classes of the config.
        raw: The number of them by image id.
        loaded: The number of loaded objects by image id, ignored ones included.
        images: Images by id.
        source: Where they are counted.
    """
    missing = raw - loaded
    source.lose('objects', IGNORED, '', False, loaded.total() - source.objects)
    for annotation in used if missing else ():
        i = annotation['image_id']
        if missing[i] > 0 and (reason := _reason(annotation, images.get(i), i in loaded)):
            where = f'annotation {annotation.get("id", "")} of image {i}'
            source.lose('objects', reason, where, reason != IGNORED)
            missing[i] -= 1
    source.lose('objects', ELSE, next(iter(missing), ''), True, missing.total())


def _file(image: dict) -> str:
    """Return the image's file; LVIS names its address only."""
    return str(image.get('file_name') or image.get('coco_url', ''))


def _reason(annotation: dict, image: dict | None, loaded: bool) -> str:
    """Return why an object may not be loaded; '' if it looks sound."""
    if annotation.get('ignore'):
        return IGNORED
    if image is None:
        return 'of an unknown image'
    if not loaded:
        return 'in images that are left out'
    if 'bbox' not in annotation:  # of XML files
        return ''
    x, y, width, height = annotation['bbox']
    if not (annotation['area'] > 0 and width >= 1 and height >= 1):
        fractions = ' (boxes as fractions of the image)' * (max(annotation['bbox']) <= 1)
        return f'with a side under 1 pixel or without area{fractions}'
    outside = x + width <= 0 or y + height <= 0 or x >= image['width'] or y >= image['height']
    return 'outside the image' if outside else ''


def _find_misspelt(names: Collection[str], source: Source) -> None:
    """Refuse classes that are spelt in another way in the files."""
    others = {str(name).strip().casefold(): name for name in names if name not in source.classes}
    for name in source.classes:
        other = others.get(str(name).strip().casefold())
        if other is not None and name not in names:
            source.add(f'class {name!r} is {other!r} in the files; correct one of them')


def _find_files_twice(images: list[dict], source: Source) -> None:
    """Warn of image files that have several ids."""
    names = Counter(os.path.normpath(_file(image)) for image in images)
    if twice := {name: n for name, n in names.items() if n > 1}:
        source.add(
            f'{len(twice):,} image files have several ids, such as {next(iter(twice))!r}, so each '
            'copy has a part of the objects; give each file one id',
            2 * sum(twice.values()) > len(images),
        )


def find_wrong_boxes(infos: list[dict], source: Source) -> None:
    """Find boxes beyond their image and boxes that are not the bounds of their polygons.

    Both happen if boxes are written as two corners, or with their centre.
    """
    pairs = [(info, item) for info in infos for item in info.get('instances') or ()]
    boxes = np.array([item['bbox'] for _, item in pairs], float).reshape(-1, 4)
    sides = np.array([(info['width'], info['height']) for info, _ in pairs]).reshape(-1, 2)
    beyond = (boxes < -1).any(1) | (boxes[:, 2:] > sides + 1).any(1)
    if beyond.sum() > 0.1 * len(boxes):
        path = pairs[int(beyond.argmax())][0]['img_path']
        text = f'{beyond.sum():,} of {len(boxes):,} boxes reach beyond their image'
        source.add(f'{text}, such as one of {path!r}; {CORNER}', bool(beyond.mean() > 0.5))
    masks = [item for _, item in pairs if isinstance(item.get('mask'), list)]
    differ = 0
    for item in masks:
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in item['mask']])
        bounds = np.concatenate([points.min(0), points.max(0)])
        side = max(2.0, 0.1 * float((bounds[2:] - bounds[:2]).max()))
        differ += bool(np.abs(np.asarray(item['bbox']) - bounds).max() > side)
    if 2 * differ > len(masks):
        source.add(f'{differ} of {len(masks)} boxes are not the bounds of their polygons; {CORNER}')
