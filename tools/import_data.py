"""Import labelled pictures: tools/import_data.py SOURCE --out DIR.

Reads YOLO, Pascal VOC, LabelMe, CVAT for images, Label Studio, COCO and folders of masks, and
writes the layout that the recipes read. The source is never changed. A picture with a damaged label
is left out whole; a table says how much was left out, and why. contact_sheet.png shows the first
images with their labels. Example::

    python tools/import_data.py my_yolo_data --out data/mine
"""

import argparse
from pathlib import Path

from mmvanilla.cli import add_arguments, one_sentence_errors

FORMATS = ('yolo', 'voc', 'labelme', 'cvat', 'label-studio', 'coco', 'masks')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Import labelled pictures.')
    parser.add_argument('source', type=Path, help='folder or file with the labels')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to make')
    parser.add_argument('--format', choices=FORMATS, help='of the labels (default: found)')
    parser.add_argument(
        '--task',
        choices=('detection', 'segmentation'),
        help='layout of COCO or of ADE20K (default: detection, segmentation for masks)',
    )
    parser.add_argument('--val', type=float, default=0.2, help='share of images (%(default)s)')
    parser.add_argument('--test', type=float, default=0, help='share of images (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the split (%(default)s)')
    parser.add_argument(
        '--group',
        metavar='REGEX',
        help='part of a name that images of one group share, such as a video; a group is not split',
    )
    parser.add_argument(
        '--rename', action='append', default=[], metavar='OLD=NEW', help='rename or merge a class'
    )
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='names of the labels 0, 1, ... of masks'
    )
    parser.add_argument('--link', action='store_true', help='link to the images, do not copy them')
    add_arguments(parser, '--debug')
    args = parser.parse_args()
    for name in ('val', 'test'):
        if not 0 <= getattr(args, name) < 1 or args.val + args.test >= 1:
            parser.error(f'--val is {args.val} and --test {args.test}, expected shares below 1')
    if any('=' not in pair for pair in args.rename):
        parser.error(f'--rename is {args.rename[-1]!r}, expected OLD=NEW')
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import contextlib
import glob
import io
import math
from collections import Counter
from functools import partial

import cv2
import mmcv
import numpy as np
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mmvanilla import UserError
from mmvanilla.deploy.draw import Annotator
from mmvanilla.deploy.predict import tile
from mmvanilla.labels import (
    FORMATS as READERS,
)
from mmvanilla.labels import (
    Item,
    Picture,
    Taken,
    find_format,
    split_pictures,
    take,
    write_detection,
    write_segmentation,
)
from mmvanilla.labels.masks import read_legend, read_mask
from mmvanilla.labels.write import draw_label_map

SHEET, SIDE = 36, 320  # pictures on the contact sheet, and their longest side in pixels
BACKGROUND = 'background'


def main(args: argparse.Namespace) -> None:
    """Import."""
    with one_sentence_errors(args.debug, UserError, OSError), Progress(transient=True) as progress:
        if args.out.resolve().is_relative_to(args.source.resolve()):
            raise UserError(f'--out {str(args.out)!r} is in the source; name a folder outside it')
        form = args.format or find_format(args.source)
        task = args.task or ('segmentation' if form == 'masks' else 'detection')
        if form == 'masks' and task == 'detection':
            raise UserError('masks have no objects for --task detection; use segmentation')
        rename = dict(pair.split('=', 1) for pair in args.rename)
        found = READERS[form].read(args.source)
        legend, highest = {}, [0]
        if form == 'masks':
            legend = read_legend(args.source) or dict.fromkeys(args.classes or ())

        def check(item: Item, size: tuple[int, int]) -> None:
            if form == 'masks':
                if item.label_map is None:
                    raise FileNotFoundError
                labels = read_mask(item.label_map, size, legend)
                highest[0] = max(highest[0], int(labels.max()))

        bar = progress.add_task('labels', total=None)
        taken = take(found, check, rename, partial(progress.advance, bar))
        shares = dict(val=args.val, test=args.test)
        pictures = split_pictures(taken.pictures, shares, args.seed, args.group)
        bar = progress.add_task('images', total=len(pictures))
        advance = partial(progress.advance, bar)
        if task == 'detection':
            write_detection(args.out, pictures, taken.classes, args.link, advance)
        else:
            taken.classes = segment(args, form, taken, pictures, legend, highest[0], advance)
        sheet = args.out / 'contact_sheet.png'
        sheet.write_bytes(cv2.imencode('.png', draw_sheet(args.out, task, taken.classes))[1])
    report(taken, pictures, task, args.out)
    print(sheet)


def segment(
    args: argparse.Namespace,
    form: str,
    taken: Taken,
    pictures: list[Picture],
    legend: dict,
    highest: int,
    advance: partial,
) -> tuple[str, ...]:
    """Write the layout of segmentation; return its classes."""
    if form == 'masks':
        classes = tuple(legend) or (BACKGROUND, *(f'class{i}' for i in range(1, highest + 1)))
        if not legend and highest == 1:
            classes = (BACKGROUND, 'foreground')

        def read(picture: Picture) -> np.ndarray:
            return read_mask(picture.label_map, picture.size, legend)
    else:
        classes = (BACKGROUND, *(name for name in taken.classes if name != BACKGROUND))
        for picture in pictures:
            if box := next((shape for shape in picture.shapes if not shape.polygons), None):
                raise UserError(
                    f'{str(picture.image)!r} has a box of {box.name!r} without a polygon; '
                    'segmentation needs polygons, use --task detection'
                )
        read = partial(draw_label_map, classes=classes)
    write_segmentation(args.out, pictures, classes, read, args.link, advance)
    return classes


def draw_sheet(out: Path, task: str, classes: tuple[str, ...]) -> np.ndarray:
    """Draw written training images with their labels, as the libraries read them.

    Returns:
        The pictures on one sheet (H, W, 3), uint8, BGR.
    """
    annotator = Annotator(classes)
    drawn = []
    if task == 'detection':
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(out / 'annotations/instances_train2017.json')
        for image in coco.loadImgs(coco.getImgIds()[:SHEET]):
            notes = coco.loadAnns(coco.getAnnIds(image['id'], iscrowd=False))
            picture = mmcv.imread(str(out / 'train2017' / image['file_name']))
            boxes = np.array([note['bbox'] for note in notes], float).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            labels = np.array([note['category_id'] - 1 for note in notes], int)
            instances = InstanceData(bboxes=boxes, labels=labels)
            if notes and all(note['segmentation'] for note in notes):
                instances.masks = np.array([coco.annToMask(note) for note in notes])
            drawn.append(annotator.draw_objects(picture, instances))
    else:
        for file in sorted((out / 'annotations/training').iterdir())[:SHEET]:
            (image,) = (out / 'images/training').glob(f'{glob.escape(file.stem)}.*')
            labels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) - np.uint8(1)  # 255: unlabelled
            drawn.append(annotator.draw_regions(mmcv.imread(str(image)), labels))
    scales = [min(1.0, SIDE / max(picture.shape[:2])) for picture in drawn]
    small = [
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for picture, scale in zip(drawn, scales, strict=True)
    ]
    return tile(small, math.ceil(math.sqrt(len(small))))


def describe(pictures: list[Picture]) -> str:
    """Return the number of objects of each class, most first, and of images without objects."""
    counts = Counter(shape.name for picture in pictures for shape in picture.shapes)
    texts = [f'{number} {name}' for name, number in counts.most_common()]
    empty = sum(not picture.shapes for picture in pictures)
    return ', '.join([*texts, f'{empty} without objects'])


def report(taken: Taken, pictures: list[Picture], task: str, out: Path) -> None:
    """Print the numbers of images, and a table of those left out."""
    console = Console(highlight=False, soft_wrap=True)
    if taken.left:
        table = Table('count', 'what', 'why')
        table.add_column('examples', overflow='fold')
        for key, number in taken.left.most_common():
            shown = taken.examples[key]
            text = '\n'.join(shown + ['...'] * (number > len(shown))).replace('[', r'\[')
            table.add_row(str(number), key.what, key.reason, text)
        console.print(table)
    for split in ('train', 'val', 'test'):
        chosen = [picture for picture in pictures if picture.split == split]
        if chosen:
            text = f': {describe(chosen)}' if task == 'detection' else ''
            print(f'{split}: {len(chosen)} images{text}')
    print(f'classes: {", ".join(taken.classes)}')
    print(f'written to {out}')


if __name__ == '__main__':
    main(args)
