"""The account of a data set: images and objects in its files, and those that were loaded."""

import gc
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.fileio import list_from_file
from PIL import Image

from .documents import read_json
from .findings import Finding
from .items import label_map_step, leaves

OBJECT = re.compile(rb'<object\b.*?<name>(.*?)</name>', re.DOTALL)
SIDE = re.compile(rb'<(width|height)>\s*(\d+)')
SAMPLE = 500  # about the number of images with checked boxes
EMPTY = 'without objects'
IGNORED = 'marked as crowd, difficult or to be ignored'
ELSE = 'for another reason'
CORNER = 'write bbox as x and y of the upper left corner, width and height, all in pixels'


class Lost(NamedTuple):
    """Why images or objects were not loaded.

    Attributes:
        what: ``'images'``, ``'objects'`` or ``'label maps'``.
        reason: The reason, for messages.
        loss: False if the user or the format wants them left out.
    """

    what: str
    reason: str
    loss: bool


@dataclass
class Source:
    """Numbers of one data set without wrappers: loaded, and ``raw`` in its files.

    Raw numbers are None if the format is unknown. Objects that are marked to be ignored are not
    loaded. ``labels`` counts loaded objects, or images of a classifier, by label. ``lost`` counts
    images and objects that were not loaded; ``examples`` has one example for each key of ``lost``.
    """

    name: str
    images: int
    classes: tuple[str, ...] = ()
    raw_images: int | None = None
    objects: int = 0
    raw_objects: int | None = None
    labels: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)
    examples: dict = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def lose(self, what: str, reason: str, example: object, loss: bool, number: int = 1) -> None:
        """Count images or objects that were not loaded."""
        if number > 0:
            key = Lost(what, reason, loss)
            self.lost[key] += number
            self.examples.setdefault(key, str(example))

    def add(self, text: str, refuse: bool = True) -> None:
        """Add a finding."""
        self.findings.append(Finding(f'{self.name}: {text}', refuse))

    def mostly_lost(self) -> Iterator[Finding]:
        """Refuse a data set that lost most of its images or objects."""
        for what in ('images', 'objects'):
            loaded, raw = getattr(self, what), getattr(self, f'raw_{what}')
            lost = {key: n for key, n in self.lost.items() if key.what == what}
            losses = sum(n for key, n in lost.items() if key.loss)
            empty = self.lost[Lost(what, EMPTY, False)]
            if raw and (2 * losses > raw - empty or (what == 'objects' and not loaded)):
                main = max(lost, key=lambda key: (key.loss, lost[key]))
                text = f'{loaded:,} of {raw:,} {what} loaded; {lost[main]:,} are left out'
                example = self.examples[main]
                yield Finding(f'{self.name}: {text} {main.reason} ({example})', True)


@dataclass
class Account:
    """Numbers of a split, ``'train'``, ``'val'`` or ``'test'``, by data set without wrappers."""

    split: str
    sources: list[Source]

    @property
    def labels(self) -> int:
        """The highest label that was loaded + 1; 0 if unknown."""
        return max((label + 1 for source in self.sources for label in source.labels), default=0)

    def line(self) -> str:
        """Return the account in one line."""
        loaded = f'{self._number("images")} images'
        if any(source.objects or source.raw_objects for source in self.sources):
            number = len({name for source in self.sources for name in source.classes})
            loaded += f', {self._number("objects")} objects in {number} classes'
        lost = self._lost((True, False))
        return f'{self.split}: {loaded} loaded' + (f'; left out: {lost}' if lost else '')

    def findings(self) -> list[Finding]:
        """Return refusals and warnings."""
        found = [finding for source in self.sources for finding in source.findings]
        found += [finding for source in self.sources for finding in source.mostly_lost()]
        counts: Counter = Counter()
        for source in self.sources:
            for i, name in enumerate(source.classes if source.labels else ()):
                counts[name] += source.labels[i]
        if empty := [name for name, number in counts.items() if not number]:
            names = ', '.join(map(repr, empty[:3])) + ' ...' * (len(empty) > 3)
            text = f'{self.split}: {len(empty)} of {len(counts)} classes have no objects ({names})'
            found.append(Finding(text))
        lost = self._lost((True,))
        if lost and not any(finding.refuse for finding in found):
            found.append(Finding(f'{self.split}: left out: {lost}'))
        nothing = [source for source in self.sources if source.raw_objects == 0]
        if self.split == 'train' and nothing and not self.labels:
            found.append(Finding(f'{nothing[0].name}: no object of the classes in the file', True))
        return found

    def table(self) -> list[dict]:
        """Return one row for each finding and each reason, with an example."""
        rows: list[dict] = [
            dict(kind=finding.text, error=finding.refuse, count=1, examples=[])
            for finding in self.findings()
        ]
        for source in self.sources:
            for key, n in source.lost.items():
                examples = [f'{source.name}: {source.examples[key]}']
                kind = f'{key.what} {key.reason}'
                rows.append(dict(kind=kind, error=False, count=n, examples=examples))
        return [dict(row, data=self.split) for row in rows]

    def _number(self, what: str) -> str:
        loaded = sum(getattr(source, what) for source in self.sources)
        raw = [getattr(source, f'raw_{what}') for source in self.sources]
        return f'{loaded:,}' if None in raw else f'{loaded:,} of {sum(raw):,}'

    def _lost(self, wanted: tuple[bool, ...]) -> str:
        """Describe what was not loaded; ``wanted`` has the values of ``Lost.loss`` to include."""
        lost: Counter = sum((source.lost for source in self.sources), Counter())
        found = [(key, n) for key, n in lost.items() if key.loss in wanted]
        return ', '.join(f'{n:,} {key.what} {key.reason}' for key, n in found)


def account(dataset: Any, split: str) -> Account:
    """Compare a built data set with its files.

    Args:
        dataset: A data set or wrappers of data sets, fully initialized.
        split: Its name in messages, ``'train'``, ``'val'`` or ``'test'``.
    """
    enabled = gc.isenabled()
    gc.disable()  # a million small objects make the search for cycles slow
    try:
        return Account(split, [_source(leaf) for leaf in leaves(dataset)])
    finally:
        if enabled:
            gc.enable()


def _source(leaf: Any) -> Source:
    """Count the loaded images and objects of one data set, then those in its files."""
    file, prefix = str(getattr(leaf, 'ann_file', None) or ''), getattr(leaf, 'data_prefix', None)
    folders = list(prefix.values()) if isinstance(prefix, Mapping) else [prefix]
    where = file or next((str(folder) for folder in folders if folder), '')
    source = Source(f'{type(leaf).__name__} {where}'.strip(), len(leaf))
    classes = (getattr(leaf, 'metainfo', None) or {}).get('classes') or ()
    if isinstance(classes, list | tuple) and len(set(classes)) == len(classes):
        source.classes = tuple(classes)
    else:
        source.add(f'metainfo.classes is {classes!r}, expected a tuple of different names')
    loaded: Counter = Counter()  # objects by image id
    paths: dict[str, set[str]] = dict(img_path=set(), seg_map_path=set())
    sample: list[dict] = []
    labels: list[int] = []
    for i in range(len(leaf) if hasattr(leaf, 'get_data_info') else 0):
        info = leaf.get_data_info(i)
        instances = info.get('instances') or []
        labels += [item['bbox_label'] for item in instances if not item.get('ignore_flag')]
        if 'gt_label' in info:
            source.labels.update(np.atleast_1d(info['gt_label']).tolist())
        if 'img_id' in info and 'instances' in info:
            loaded[info['img_id']] = len(instances)
        for key, found in paths.items():
            if not file and isinstance(info.get(key), str):
                found.add(os.path.normpath(info[key]))
        if i % (len(leaf) // SAMPLE + 1) == 0:
            sample.append(info)
    source.objects = len(labels)
    source.labels.update(labels)
    with suppress(AttributeError, IndexError, KeyError, OSError, TypeError, ValueError):
        # Files in an unknown format have no raw numbers.
        if file and os.path.exists(file) and (loaded or not source.images):
            document = _read_xml(leaf) if hasattr(leaf, 'ann_subdir') else read_json(file)
            _compare_objects(leaf, document, loaded, source)
        elif not file and os.path.exists(where):
            _compare_folders(leaf, paths['img_path'], paths['seg_map_path'], source)
        _check_boxes(sample, source)
    return source


# ---- Images and objects


def _read_xml(leaf: Any) -> dict:
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


def _compare_objects(leaf: Any, document: dict, loaded: Counter, source: Source) -> None:
    """Compare a document in COCO's format with the number of loaded objects by image id."""
    images, annotations = document['images'], document.get('annotations') or []
    names = {category['id']: category['name'] for category in document['categories']}
    if getattr(leaf, '_indices', None) is not None:  # the user's choice is no loss
        images = [image for image in images if image['id'] in loaded]
        annotations = [each for each in annotations if each['image_id'] in loaded]
    labels = getattr(leaf, 'cat2label', None) or {}
    _check_spelling(names.values(), source)
    _check_names({names[i]: label for i, label in labels.items() if i in names}, source)
    ids = {i for i, name in names.items() if i in labels or name in source.classes}
    used = [each for each in annotations if each['category_id'] in ids]
    unused = Counter(each['category_id'] for each in annotations if each['category_id'] not in ids)
    all_found = set(source.classes) <= set(names.values())
    for i, n in unused.items():  # by category id
        loss = i not in names or not all_found
        reason = 'no class of the config' if i in names else 'not in the file'
        source.lose('objects', f'of a category that is {reason}', repr(names.get(i, i)), loss, n)
    losses = sum(n for key, n in source.lost.items() if key.loss)
    source.raw_images, source.raw_objects = len(images), len(used) + losses

    # Objects that are missing from the loaded ones, by image id.
    by_id = {image['id']: image for image in images}
    raw = Counter(map(itemgetter('image_id'), used))
    missing = raw - loaded
    source.lose('objects', IGNORED, '', False, loaded.total() - source.objects)
    for annotation in used if missing else ():
        i = annotation['image_id']
        if missing[i] > 0 and (reason := _reason(annotation, by_id.get(i), i in loaded)):
            where = f'annotation {annotation.get("id", "")} of image {i}'
            source.lose('objects', reason, where, reason != IGNORED)
            missing[i] -= 1
    source.lose('objects', ELSE, next(iter(missing), ''), True, missing.total())

    smallest = (getattr(leaf, 'filter_cfg', None) or {}).get('min_size', 0)
    for i in by_id.keys() - loaded.keys():
        image, reason = by_id[i], ELSE
        if not raw[i]:
            reason = EMPTY
        elif min(image.get('width', smallest), image.get('height', smallest)) < smallest:
            reason = f'with a side under min_size={smallest} pixels'
        source.lose('images', reason, _file(image), reason != EMPTY or not all_found)
    source.lose('images', 'with an id of another image', '', True, len(images) - len(by_id))
    _check_files_twice(images, source)


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


# ---- Mistakes


def _check_names(labels: Mapping[str, int], source: Source) -> None:
    """Refuse labels that have other names in the files than in the config."""
    for name, label in labels.items():
        expected = source.classes[label] if label < len(source.classes) else None
        if name in source.classes and name != expected:
            missing = [other for other in source.classes if other not in labels]
            advice = 'give the classes in the order of the files, each once'
            if missing:
                advice = f'the files have no {missing[0]!r}, remove it from the classes'
            text = f'label {label} is {name!r} in the files, but {expected!r} in the config'
            source.add(f'{text}; {advice}')
            return


def _check_spelling(names: Collection[str], source: Source) -> None:
    """Refuse classes that are spelt in another way in the files."""
    others = {str(name).strip().casefold(): name for name in names if name not in source.classes}
    for name in source.classes:
        other = others.get(str(name).strip().casefold())
        if other is not None and name not in names:
            source.add(f'class {name!r} is {other!r} in the files; correct one of them')


def _check_files_twice(images: list[dict], source: Source) -> None:
    """Warn of image files that have several ids."""
    names = Counter(os.path.normpath(_file(image)) for image in images)
    if twice := {name: n for name, n in names.items() if n > 1}:
        source.add(
            f'{len(twice):,} image files have several ids, such as {next(iter(twice))!r}, so each '
            'copy has a part of the objects; give each file one id',
            2 * sum(twice.values()) > len(images),
        )


def _check_boxes(infos: list[dict], source: Source) -> None:
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


# ---- Folders


def _compare_folders(leaf: Any, images: set[str], maps: set[str], source: Source) -> None:
    """Compare folders of images, and of label maps, with the loaded ones."""
    if getattr(leaf, '_indices', None) is not None:  # the user's choice is no loss
        return
    if hasattr(leaf, 'folder_to_idx'):
        _check_names(leaf.folder_to_idx, source)
        for path in _image_files(leaf.img_prefix) - images:
            source.lose('images', 'with another suffix or in no class folder', path, True)
        source.raw_images = source.images + source.lost.total()
        return
    suffix, map_suffix = leaf.img_suffix, leaf.seg_map_suffix
    folder, map_folder = (leaf.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
    found = _image_files(map_folder) if map_folder else set()
    unused = found - maps
    for path in sorted(_image_files(folder) - images - found):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        partner = os.path.normpath(os.path.join(map_folder or '', stem + map_suffix))
        if not map_folder or partner in unused:
            source.lose('images', f'whose suffix is not {suffix!r}', path, True)
            unused.discard(partner)
    source.raw_images = source.images + source.lost.total()
    alone = sorted(path for path in unused - images if path.endswith(map_suffix))
    source.lose('label maps', 'without an image', next(iter(alone), ''), True, len(alone))
    if label_map_step(leaf) and (missing := sorted(maps - found)):
        source.add(f'{len(missing)} images have no label map, such as {missing[0]!r}')


def _image_files(folder: str) -> set[str]:
    """Return all image files below a folder."""
    suffixes = Image.registered_extensions()
    return {
        os.path.normpath(os.path.join(parent, name))
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes
    }
