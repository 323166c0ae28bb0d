"""Write the generated shapes and a contact sheet of them, preview.png.

Example::

    python tools/make_shapes.py --out data/shapes
"""

import argparse
from pathlib import Path

from mmvanilla.cli import add_arguments, one_sentence_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='folder to make')
    parser.add_argument('--train', type=int, default=1600, help='training images (%(default)s)')
    parser.add_argument('--val', type=int, default=100, help='validation images (%(default)s)')
    parser.add_argument('--size', type=int, default=160, help='image side in px (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (%(default)s)')
    add_arguments(parser, '--debug')
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import json

import cv2
import numpy as np
from rich.progress import Progress

import mmvanilla
from mmvanilla.deploy.predict import tile

PALETTE, METAINFO_SEG = mmvanilla.datasets.PALETTE, mmvanilla.datasets.METAINFO_SEG
ROWS, COLUMNS = 6, 4  # of the contact sheet at most, in pairs of pictures


def contact_sheet(root: Path) -> np.ndarray:
    """Draw training images with outlines and boxes, next to their label maps.

    Args:
        root: A complete set with at least one training image.

    Returns:
        BGR, uint8 of shape (R * S, 2 * COLUMNS * S, 3), of R rows; black where the images run out.
    """
    coco, ade = root / 'coco', root / 'ADEChallengeData2016'
    document = json.loads((coco / 'annotations/instances_train2017.json').read_text())
    label_maps = sorted((ade / 'annotations/training').iterdir())[: ROWS * COLUMNS]
    palette = np.array([(0, 0, 0), *METAINFO_SEG['palette']], np.uint8)[:, ::-1]

    pairs = []
    for info, label_map in zip(document['images'], label_maps, strict=False):
        image = cv2.imread(str(coco / 'train2017' / info['file_name']))
        _outline(image, [a for a in document['annotations'] if a['image_id'] == info['id']])
        labels = cv2.imread(str(label_map), cv2.IMREAD_GRAYSCALE)
        pairs.append(np.hstack([image, palette[labels]]))
    return tile(pairs, COLUMNS)


def _outline(image: np.ndarray, annotations: list[dict]) -> None:
    """Draw boxes in white and polygons in the class colour, in place."""
    for note in annotations:
        x, y, width, height = note['bbox']
        cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), (255, 255, 255))
        for polygon in note['segmentation']:
            points = np.array(polygon, np.int32).reshape(-1, 1, 2)
            cv2.polylines(image, [points], True, PALETTE[note['category_id'] - 1][::-1])


def main(args: argparse.Namespace) -> None:
    """Make the data set and print the paths."""
    with one_sentence_errors(args.debug, ValueError, OSError):
        with Progress() as progress:
            task = progress.add_task('shapes', total=args.train + args.val)
            root = mmvanilla.make_shapes(
                args.out, args.train, args.val, args.size, args.seed, lambda: progress.advance(task)
            )
            progress.update(task, completed=args.train + args.val)
        print(f'{args.train} training and {args.val} validation images of {args.size} px in {root}')
        if args.train:
            preview = root / 'preview.png'
            # cv2.imwrite is silent about a full disk.
            preview.write_bytes(cv2.imencode('.png', contact_sheet(root))[1].tobytes())
            print(f'Contact sheet: {preview}')


if __name__ == '__main__':
    main(args)
