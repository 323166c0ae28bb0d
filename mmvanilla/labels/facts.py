"""Facts about a data set in the layout of COCO, ADE20K or ImageNet."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..checks.files import read_header
from ..errors import UserError
from .files import SUFFIXES, files_below
from .write import ADE, CLASSES_FILE

SAMPLE = 500  # images whose headers are read


@dataclass
class Facts:
    """Numbers of a data set.

    Attributes:
        task: ``detection``, ``segmentation`` or ``classification``.
        classes: The classes in order.
        images: Number of images by split.
        sizes: Width and height (N, 2) of training images in pixels.
        boxes: Width and height (M, 2) of training objects in pixels.
        objects: Number of training objects, or of images with the class, by class.
        masks: Whether every training object has a mask.
        suffix: Suffix of the images of a segmentation.
    """

    task: str
    classes: tuple[str, ...] = ()
    images: dict[str, int] = field(default_factory=dict)
    sizes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    objects: Counter = field(default_factory=Counter)
    masks: bool = False
    suffix: str = '.jpg'


def find_facts(root: Path) -> Facts:
    """Look at a data set.

    Raises:
        FileNotFoundError: If the folder does not exist.
        UserError: If it has none of the layouts, or no training or validation images.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'{str(root)!r} is no folder; check the path')
    if (root / 'annotations/instances_train2017.json').exists():
        facts = _detection(root)
    elif (root / 'images/training').is_dir():
        facts = _segmentation(root)
    elif (root / 'train').is_dir() and any(path.is_dir() for path in (root / 'train').iterdir()):
        facts = _classification(root)
    else:
        raise UserError(
            f'{str(root)!r} has neither annotations/instances_train2017.json, images/training nor '
            'train/CLASS folders; write one of these layouts, as tools/import_data.py does'
        )
    for split in ('train', 'val'):
        if not facts.images.get(split):
            raise UserError(f'{str(root)!r} has no images of the split {split!r}; add some')
    return facts


def _detection(root: Path) -> Facts:
    facts = Facts('detection')
    for split in ('train', 'val', 'test'):
        file = root / f'annotations/instances_{split}2017.json'
        if not file.exists():
            continue
        document = json.loads(file.read_bytes())
        facts.images[split] = len(document['images'])
        if split != 'train':
            continue
        sizes = [(each['width'], each['height']) for each in document['images']]
        names = {each['id']: each['name'] for each in document['categories']}
        notes = [note for note in document['annotations'] if not note.get('iscrowd')]
        facts.classes = tuple(names[i] for i in sorted(names))
        facts.sizes = np.array(sizes, float).reshape(-1, 2)
        facts.boxes = np.array([note['bbox'][2:] for note in notes], float).reshape(-1, 2)
        facts.objects = Counter(names[note['category_id']] for note in notes)
        facts.masks = bool(notes) and all(note.get('segmentation') for note in notes)
    return facts


def _segmentation(root: Path) -> Facts:
    facts = Facts('segmentation')
    for split, folder in ADE.items():
        found = files_below(root / 'images' / folder, *SUFFIXES)
        facts.images[split] = len(found)
        if split == 'train' and found:
            facts.suffix = found[0].suffix
            facts.sizes = _sizes(found)
            for file in _sample(files_below(root / 'annotations' / folder, '.png')):
                with Image.open(file) as image:
                    facts.objects.update(np.unique(np.asarray(image)).tolist())
    listed = root / CLASSES_FILE
    if listed.exists():
        facts.classes = tuple(listed.read_text(encoding='utf-8').split('\n')[:-1])
    else:
        facts.classes = tuple(f'class{i}' for i in range(1, max(facts.objects, default=0) + 1))
    # Label maps hold the class + 1, 0 is unlabelled.
    facts.objects = Counter(
        {facts.classes[i - 1]: n for i, n in facts.objects.items() if 0 < i <= len(facts.classes)}
    )
    return facts


def _classification(root: Path) -> Facts:
    facts = Facts('classification')
    facts.classes = tuple(sorted(path.name for path in (root / 'train').iterdir() if path.is_dir()))
    for split in ('train', 'val', 'test'):
        facts.images[split] = len(files_below(root / split, *SUFFIXES))
    found = {name: files_below(root / 'train' / name, *SUFFIXES) for name in facts.classes}
    facts.objects = Counter({name: len(files) for name, files in found.items()})
    facts.sizes = _sizes([file for files in found.values() for file in files])
    return facts


def _sample(files: list[Path]) -> list[Path]:
    return files[:: len(files) // SAMPLE + 1]


def _sizes(files: list[Path]) -> np.ndarray:
    headers = (read_header(f'image {str(file)!r}', str(file)) for file in _sample(files))
    return np.array([header.size for header in headers if header], float).reshape(-1, 2)
