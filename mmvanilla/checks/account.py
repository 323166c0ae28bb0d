"""The account of a data set: numbers in its files against the numbers that the library loaded."""

import gc
import html
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import list_from_file
from PIL import Image

from ..errors import InputError
from .files import LOSSY, read_header
from .findings import Finding
from .items import label_map_step

POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[\s*(?:\[[^\[\]"]*\][\s,]*)*\]')
OBJECT = re.compile(rb'<object\b.*?<name>(.*?)</name>', re.DOTALL)
SIDE = re.compile(rb'<(width|height)>\s*(\d+)')
BOXES = 50_000  # boxes that are compared with their image, about
SAMPLE = 1000  # polygons that are compared with their boxes
CATEGORY = 'of a category that is no class of the config'
EMPTY = 'without objects'
IGNORED = 'marked as crowd, difficult or to be ignored'
ELSE = 'for another reason'
CORNER = 'write bbox as x and y of the upper left corner, width and height, all in pixels'


@dataclass
class Source:
    """Numbers of one data set without wrappers, in its files (``raw``) and loaded.

    Attributes:
        name: Its type, and its annotation file or folder.
        classes: The config's classes.
        images: Images loaded.
        raw_images: Images in the files; None if the format is unknown.
        objects: Objects loaded, without those marked to be ignored.
        raw_objects: Objects in the files; None if the format is unknown.
        labels: Loaded objects, or images of a classifier, by label.
        lost: Numbers left out, by ('images' or 'objects', reason, False if the user chose that).
        examples: The first example of each key of ``lost``.
        findings: Mistakes in the files.
    """

    name: str
    classes: tuple[str, ...] = ()
    images: int = 0
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
            self.lost[what, reason, loss] += number
            self.examples.setdefault((what, reason, loss), str(example))

    def add(self, text: str, refuse: bool = True) -> None:
        """Add a finding."""
        self.findings.append(Finding(f'{self.name}: {text}', refuse))

    def mostly_lost(self) -> Iterator[Finding]:
        """Refuse a data set that lost most of its images or objects."""
        numbers = (
            ('images', self.images, self.raw_images),
            ('objects', self.objects, self.raw_objects),
        )
        for what, loaded, raw in numbers:
            keys = [key for key in self.lost if key[0] == what]
            losses = sum(self.lost[key] for key in keys if key[2])
            meant = sum(self.lost[key] for key in keys if key[1:] == (EMPTY, False))
            if raw and (2 * losses > raw - meant or (what == 'objects' and not loaded)):
                key = max(keys, key=lambda key: (key[2], self.lost[key]))
                yield Finding(
                    f'{self.name}: {loaded:,} of {raw:,} {what} loaded; {self.lost[key]:,} are '
                    f'left out {key[1]} ({self.examples[key]})',
                    True,
                )


@dataclass
class Account:
    """Numbers in the files of a split and loaded numbers.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        sources: The split's data sets without wrappers.
    """

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
        empty = [name for name, number in counts.items() if not number]
        if empty:
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
        rows: list[tuple[str, bool, int, list[str]]]
        rows = [(finding.text, finding.refuse, 1, []) for finding in self.findings()]
        for source in self.sources:
            for key, n in source.lost.items():
                rows.append(
                    (' '.join(key[:2]), False, n, [f'{source.name}: {source.examples[key]}'])
                )
        names = 'kind', 'error', 'count', 'examples'
        return [dict(zip(names, row, strict=True), data=self.split) for row in rows]

    def _number(self, what: str) -> str:
        loaded = sum(getattr(source, what) for source in self.sources)
        raw = [getattr(source, f'raw_{what}') for source in self.sources]
        return f'{loaded:,}' if None in raw else f'{loaded:,} of {sum(raw):,}'

    def _lost(self, kinds: tuple[bool, ...]) -> str:
        lost: Counter = sum((source.lost for source in self.sources), Counter())
        return ', '.join(f'{n:,} {key[0]} {key[1]}' for key, n in lost.items() if key[2] in kinds)


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


def leaves(dataset: Any) -> list:
    """Return the different data sets inside wrappers."""
    inner = getattr(dataset, 'datasets', None)
    if inner is None and getattr(dataset, 'dataset', None) is not None:
        inner = [dataset.dataset]
    if not inner:
        return [dataset]
    return list({id(leaf): leaf for child in inner for leaf in leaves(child)}.values())


def _source(leaf: Any) -> Source:
    """Count the loaded images and objects of one data set, then those in its files."""
    file = getattr(leaf, 'ann_file', None)
    prefix = getattr(leaf, 'data_prefix', None)
    folders = list(prefix.values()) if isinstance(prefix, Mapping) else [prefix]
    where = str(file or next((folder for folder in folders if folder), ''))
    source = Source(f'{type(leaf).__name__} {where}'.strip(), (), len(leaf))
    classes = (getattr(leaf, 'metainfo', None) or {}).get('classes') or ()
    if isinstance(classes, (list, tuple)) and len(set(classes)) == len(classes):
        source.classes = tuple(classes)
    else:
        source.add(f'metainfo.classes is {classes!r}, expected a tuple of different names')
    number: dict[Any, int] = {}  # of objects, by image
    paths: dict[str, list[str]] = {}
    polygons: list[dict] = []
    labels: list[int] = []
    for i in range(len(leaf) if hasattr(leaf, 'get_data_info') else 0):
        info = leaf.get_data_info(i)
        instances = info.get('instances') or []
        labels += [item['bbox_label'] for item in instances if not item.get('ignore_flag')]
        if 'gt_label' in info:
            source.labels.update(np.atleast_1d(info['gt_label']).tolist())
        if 'img_id' in info and 'instances' in info:
            number[info['img_id']] = len(instances)
        for key in ('img_path', 'seg_map_path'):
            if isinstance(info.get(key), str):
                paths.setdefault(key, []).append(info[key])
        if len(polygons) < SAMPLE:
            polygons += [item for item in instances if isinstance(item.get('mask'), list)]
    source.objects = len(labels)
    source.labels.update(labels)
    try:
        _check_polygons(polygons[:SAMPLE], source)
        if label_map_step(leaf):
            _check_jpeg(paths.get('seg_map_path', []), source)
        if (paths or not source.images) and os.path.exists(where):
            _compare(leaf, number, paths, source)
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        source.raw_images = source.raw_objects = None
        source.add(f'its files cannot be counted ({type(error).__name__}: {error})', False)
    return source


def _compare(
    leaf: Any, number: dict[Any, int], paths: dict[str, list[str]], source: Source
) -> None:
    """Compare files in a known format with the loaded numbers."""
    file = str(getattr(leaf, 'ann_file', ''))
    objects = number or not source.images
    if objects and file and hasattr(leaf, 'ann_subdir'):
        _compare_objects(leaf, _read_xml(leaf), number, source)
    elif objects and file.endswith('.json'):
        _compare_objects(leaf, _read_json(file), number, source)
    elif not file and getattr(leaf, '_indices', None) is None:
        if hasattr(leaf, 'seg_map_suffix') and hasattr(leaf, 'img_suffix'):
            _compare_pairs(leaf, paths, source)
        elif hasattr(leaf, 'folder_to_idx'):
            _check_names(leaf.folder_to_idx, source)
            loaded = set(map(os.path.normpath, paths.get('img_path', [])))
            for path in _image_files(leaf.img_prefix) - loaded:
                source.lose('images', 'with another suffix or in no class folder', path, True)
            source.raw_images = source.images + sum(source.lost.values())


# ---- Images and objects


def _read_json(file: str) -> dict:
    """Read a file in COCO's format without its polygons; {} if it has another format."""
    try:
        with open(file, 'rb') as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
            document = json.loads(POLYGONS.sub(b'"segmentation":0', content))
    except ValueError:
        return {}
    if not isinstance(document, dict) or not {'images', 'categories'} <= document.keys():
        return {}
    notes = document.get('annotations') or []
    return document if not notes or 'category_id' in notes[0] else {}


def _read_xml(leaf: Any) -> dict:
    """Read the XML files of a list as if they were one file in COCO's format."""
    images, notes = [], []
    for i in list_from_file(leaf.ann_file):
        path = os.path.join(leaf.sub_data_root, leaf.ann_subdir, f'{i}.xml')
        content = Path(path).read_bytes() if os.path.exists(path) else b''
        sides = {side.decode(): int(value) for side, value in SIDE.findall(content)}
        images.append(dict(id=i, file_name=f'{i}.xml', **sides))
        names = [html.unescape(name.decode()) for name in OBJECT.findall(content)]
        notes += [dict(image_id=i, category_id=name) for name in names]
    categories = [dict(id=name, name=name) for name in {note['category_id'] for note in notes}]
    return dict(images=images, annotations=notes, categories=categories)


def _compare_objects(leaf: Any, document: dict, number: dict[Any, int], source: Source) -> None:
    """Compare the images and objects of files with the loaded ones.

    Args:
        leaf: The data set.
        document: The files' content in COCO's format; {} compares nothing.
        number: Number of loaded objects by image id.
        source: Takes the result.
    """
    if not document:
        return
    images, notes = document['images'], document.get('annotations') or []
    if getattr(leaf, '_indices', None) is not None:  # what these leave out is no loss
        images = [image for image in images if image['id'] in number]
        notes = [note for note in notes if note['image_id'] in number]
    names = {category['id']: category['name'] for category in document['categories']}
    labels = getattr(leaf, 'cat2label', None) or {}
    ids = set(labels) if labels and labels.keys() <= names.keys() else set()
    _check_similar_names(names.values(), source)
    _check_names({names[i]: labels[i] for i in sorted(ids, key=lambda i: labels[i])}, source)
    ids = ids or {i for i, name in names.items() if name in source.classes}
    all_found = set(source.classes) <= set(names.values())

    used = [note for note in notes if note['category_id'] in ids]
    others = Counter(note['category_id'] for note in notes if note['category_id'] not in ids)
    losses = 0
    for i, n in others.items():
        loss = i not in names or not all_found
        reason = CATEGORY if i in names else 'of a category that is not in the file'
        source.lose('objects', reason, repr(names.get(i, i)), loss, n)
        losses += n * loss
    source.raw_images, source.raw_objects = len(images), len(used) + losses
    _check_files_twice(images, source)
    by_id = {image['id']: image for image in images}
    _check_reach(by_id, used, source)

    raw = Counter(note['image_id'] for note in used)
    lost = {i: n - number.get(i, 0) for i, n in raw.items() if n != number.get(i, 0)}
    source.lose('objects', IGNORED, '', False, sum(number.values()) - source.objects)
    for note in used if lost else ():
        i = note['image_id']
        if lost.get(i, 0) > 0 and (reason := _reason(note, by_id.get(i), i in number)):
            where = f'annotation {note.get("id", "")} of image {i}'
            source.lose('objects', reason, where, reason != IGNORED)
            lost[i] -= 1
    source.lose('objects', ELSE, next(iter(lost), ''), True, sum(lost.values()))
    smallest = (getattr(leaf, 'filter_cfg', None) or {}).get('min_size', 0)
    for i in by_id.keys() - number.keys():
        image, reason = by_id[i], ELSE
        if not raw[i]:
            reason = EMPTY
        elif min(image.get('width', smallest), image.get('height', smallest)) < smallest:
            reason = f'with a side under min_size={smallest} pixels'
        loss = not all_found if reason == EMPTY else True
        source.lose('images', reason, _file(image), loss)
    source.lose('images', 'with an id of another image', '', True, len(images) - len(by_id))


def _file(image: dict) -> str:
    """Return the image's file; LVIS names its address only."""
    return str(image.get('file_name') or image.get('coco_url', ''))


def _reason(note: dict, image: dict | None, loaded: bool) -> str:
    """Describe an object that may be left out; '' if it looks sound."""
    if note.get('ignore'):
        return IGNORED
    if image is None:
        return 'of an unknown image'
    if not loaded:
        return 'in images that are left out'
    try:
        x, y, width, height = note['bbox']
        if not (note['area'] > 0 and width >= 1 and height >= 1):
            fractions = ' (boxes as fractions of the image)' * (max(note['bbox']) <= 1)
            return f'with a side under 1 pixel or without area{fractions}'
        if x + width <= 0 or y + height <= 0 or x >= image['width'] or y >= image['height']:
            return 'outside the image'
    except (KeyError, TypeError, ValueError):
        return ''
    return ''


# ---- Mistakes


def _check_polygons(items: list[dict], source: Source) -> None:
    """Refuse boxes that are not the bounds of their polygons."""
    differ = 0
    for item in items:
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in item['mask']])
        bounds = np.concatenate([points.min(0), points.max(0)])
        side = max(2.0, 0.1 * float((bounds[2:] - bounds[:2]).max()))
        differ += bool(np.abs(np.asarray(item['bbox']) - bounds).max() > side)
    if 2 * differ > len(items):
        source.add(f'{differ} of {len(items)} boxes are not the bounds of their polygons; {CORNER}')


def _check_reach(images: dict[Any, dict], notes: list[dict], source: Source) -> None:
    """Warn of boxes that reach beyond their image, as corners in place of sides do."""
    notes = [note for note in notes[:: len(notes) // BOXES + 1] if note['image_id'] in images]
    try:
        boxes = np.array([note['bbox'] for note in notes], float).reshape(-1, 4)
        sides = [(images[note['image_id']][k] for k in ('width', 'height')) for note in notes]
        ends = np.array([list(side) for side in sides], float).reshape(-1, 2)
    except (KeyError, TypeError, ValueError):
        return
    beyond = (boxes[:, :2] < -1).any(1) | (boxes[:, :2] + boxes[:, 2:] > ends + 1).any(1)
    if beyond.sum() > 0.1 * len(notes):
        source.add(
            f'{beyond.sum():,} of {len(notes):,} boxes reach beyond their image, such as '
            f'annotation {notes[int(beyond.argmax())].get("id")}; {CORNER}',
            bool(beyond.mean() > 0.5),
        )


def _check_files_twice(images: list[dict], source: Source) -> None:
    """Warn of image files that have several ids."""
    names = Counter(os.path.normpath(_file(image)) for image in images)
    twice = {name: n for name, n in names.items() if n > 1}
    if twice:
        source.add(
            f'{len(twice):,} image files have several ids, such as {next(iter(twice))!r}, so each '
            'copy has a part of the objects; give each file one id',
            2 * sum(twice.values()) > len(images),
        )


def _check_jpeg(paths: list[str], source: Source) -> None:
    """Refuse label maps in JPEG, looking at eight of them."""
    for path in paths[:: len(paths) // 8 + 1]:
        try:
            header = read_header(path, path)
        except InputError:
            continue
        if header and header.format in LOSSY:
            source.add(f'label map {path!r} is a JPEG file, which changes labels; write PNG files')
            return


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


def _check_similar_names(names: Iterable[str], source: Source) -> None:
    """Refuse classes that the files have in another spelling only."""
    others = {str(name).strip().casefold(): name for name in names if name not in source.classes}
    for name in source.classes:
        other = others.get(str(name).strip().casefold())
        if other is not None and name not in names:
            source.add(f'class {name!r} is {other!r} in the files; correct one of them')


# ---- Folders


def _image_files(folder: str) -> set[str]:
    """Return all image files below a folder."""
    suffixes = Image.registered_extensions()
    return {
        os.path.normpath(os.path.join(parent, name))
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes
    }


def _compare_pairs(leaf: Any, paths: dict[str, list[str]], source: Source) -> None:
    """Compare folders of images and label maps with the loaded ones."""
    images, maps = (leaf.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
    loaded = set(map(os.path.normpath, paths.get('img_path', [])))
    partners = set(map(os.path.normpath, paths.get('seg_map_path', [])))
    found = _image_files(maps) if maps else set()
    for path in sorted(_image_files(images) - loaded - found):
        stem = os.path.splitext(os.path.relpath(path, images))[0]
        partner = os.path.normpath(os.path.join(maps or '', stem + leaf.seg_map_suffix))
        if not maps or partner in found - partners:
            source.lose('images', f'whose suffix is not {leaf.img_suffix!r}', path, True)
            partners.add(partner)
    source.raw_images = source.images + sum(source.lost.values())
    alone = sorted(path for path in found - partners - loaded if path.endswith(leaf.seg_map_suffix))
    source.lose('label maps', 'without an image', alone[0] if alone else '', True, len(alone))
    missing = sorted(partners - found) if maps and label_map_step(leaf) else []
    if missing:
        source.add(f'{len(missing)} images have no label map, such as {missing[0]!r}')
