"""Write pictures in the layouts of COCO and ADE20K, which the recipes read."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError
from .records import Picture

ADE = dict(train='training', val='validation', test='test')
CLASSES_FILE = 'classes.txt'  # the classes of a segmentation, one a line


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``out`` at the end; an error leaves nothing.

    Raises:
        UserError: If the folder exists and is not empty, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'{str(out)!r} is not an empty folder; name another one with --out')
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as scratch:
        fresh = Path(scratch, 'new')
        fresh.mkdir()
        yield fresh
        fresh.replace(out)


def unique_names(pictures: list[Picture], suffix: str = '') -> list[str]:
    """Return a file name for each picture, unique in its split, with ``suffix`` if given."""
    used: set[tuple[str, str]] = set()
    names = []
    for picture in pictures:
        path = Path(picture.name.replace('\\', '/'))
        stem, end = path.stem, suffix or picture.image.suffix
        name, number = f'{stem}{end}', 1
        # Without regard to case or suffix, for label maps and for other file systems.
        while (picture.split, Path(name).stem.lower()) in used:
            number += 1
            name = f'{stem}_{number}{end}'
        used.add((picture.split, Path(name).stem.lower()))
        names.append(name)
    return names


def place(source: Path, target: Path, link: bool) -> None:
    """Copy an image, or link to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)


def write_detection(
    out: Path,
    pictures: list[Picture],
    classes: tuple[str, ...],
    link: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write ``annotations/instances_{SPLIT}2017.json`` and images in ``{SPLIT}2017/``.

    Args:
        out: The folder; it appears whole or not at all.
        pictures: Pictures with a split each.
        classes: Classes in order; their category ids are 1, 2, ...
        link: Link to the images instead of copying them.
        on_image: Called after each image.

    Raises:
        UserError: If the folder is not empty.
    """
    ids = {name: i for i, name in enumerate(classes, 1)}
    with new_folder(out) as folder:
        names = unique_names(pictures)
        documents: dict[str, tuple[list, list]] = {}
        for i, (picture, name) in enumerate(zip(pictures, names, strict=True), 1):
            images, notes = documents.setdefault(picture.split, ([], []))
            width, height = picture.size
            images.append(dict(id=i, file_name=name, width=width, height=height))
            for shape in picture.shapes:
                left, top, right, bottom = (round(value, 3) for value in shape.box)
                box = [left, top, round(right - left, 3), round(bottom - top, 3)]
                area = sum(_area(points) for points in shape.polygons) or box[2] * box[3]
                note = dict(id=len(notes) + 1, image_id=i, category_id=ids[shape.name], bbox=box)
                outlines = [[round(value, 3) for value in points] for points in shape.polygons]
                note |= dict(area=area, iscrowd=int(shape.crowd), segmentation=outlines)
                notes.append(note)
            place(picture.image, folder / f'{picture.split}2017' / name, link)
            on_image()
        categories = [dict(id=i, name=name) for name, i in ids.items()]
        (folder / 'annotations').mkdir()
        for split, (images, notes) in documents.items():
            document = dict(images=images, annotations=notes, categories=categories)
            file = folder / 'annotations' / f'instances_{split}2017.json'
            file.write_text(json.dumps(document), encoding='utf-8')


def _area(points: tuple[float, ...]) -> float:
    """Return the area of a polygon in square pixels."""
    return float(cv2.contourArea(np.asarray(points, np.float32).reshape(-1, 2)))


def write_segmentation(
    out: Path,
    pictures: list[Picture],
    classes: tuple[str, ...],
    read: Callable[[Picture], np.ndarray],
    link: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write ``images/{training,validation}/`` and ``annotations/{training,validation}/``.

    Label maps hold the class + 1, and 0 where nothing is labelled, as recipes with
    ``reduce_zero_label=True`` read them. Images of several suffixes become JPEG of quality 95.

    Args:
        out: The folder; it appears whole or not at all.
        pictures: Pictures with a split each.
        classes: Classes in order, written to ``classes.txt``.
        read: Returns the classes (H, W) of a picture, uint8, 255 where nothing is labelled.
        link: Link to the images instead of copying them, where they need no conversion.
        on_image: Called after each image.

    Raises:
        UserError: If the folder is not empty.
    """
    suffixes = {picture.image.suffix for picture in pictures}
    suffix = suffixes.pop() if len(suffixes) == 1 else '.jpg'
    with new_folder(out) as folder:
        (folder / CLASSES_FILE).write_text('\n'.join(classes) + '\n', encoding='utf-8')
        for picture, name in zip(pictures, unique_names(pictures, suffix), strict=True):
            split = ADE[picture.split]
            target = folder / 'images' / split / name
            if picture.image.suffix == suffix:
                place(picture.image, target, link)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(picture.image) as image:
                    ImageOps.exif_transpose(image).convert('RGB').save(target, quality=95)
            labels = folder / 'annotations' / split / f'{Path(name).stem}.png'
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_bytes(cv2.imencode('.png', read(picture) + np.uint8(1))[1].tobytes())
            on_image()


def draw_label_map(picture: Picture, classes: tuple[str, ...]) -> np.ndarray:
    """Draw the polygons of a picture, later ones over earlier ones, on class 0, the background.

    Args:
        picture: The picture.
        classes: Classes in order, the background first.

    Returns:
        The classes (H, W), uint8.
    """
    from pycocotools import mask

    width, height = picture.size
    labels = np.zeros((height, width), np.uint8)
    for shape in picture.shapes:
        encoded = mask.merge(mask.frPyObjects([*map(list, shape.polygons)], height, width))
        labels[mask.decode(encoded).astype(bool)] = classes.index(shape.name)
    return labels
