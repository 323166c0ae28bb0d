"""Make a small set for classifiers from the objects of a set in COCO's layout."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from mmvanilla import UserError

MARGIN = 0.15  # around the longer side of a box, on either side
SMALLEST = 16  # side of a box in pixels; smaller objects are hard to recognise
SPLITS = dict(train='train2017', val='val2017')


def crop_objects(coco: str | Path, out: str | Path, size: int = 64) -> Path:
    """Write every object as a square PNG, in mmpretrain's layout of a folder for each class.

    The files are ``OUT/{train,val}/CLASS/*.png``. All appear at once, or none after an error. An
    existing ``out`` is left unchanged. Crowds and boxes with a side below 16 pixels are left out.

    Args:
        coco: Folder in COCO's layout, for example from :func:`mmvanilla.make_shapes`.
        out: Folder to make.
        size: Height and width of the crops in pixels.

    Returns:
        ``out`` as a path.

    Raises:
        UserError: If an image cannot be read.
        FileNotFoundError: If there are no annotations.
    """
    coco, out = Path(coco), Path(out)
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as scratch:
        fresh = Path(scratch, 'new')
        for split, folder in SPLITS.items():
            document = json.loads((coco / f'annotations/instances_{folder}.json').read_text())
            names = {kind['id']: kind['name'] for kind in document['categories']}
            files = {image['id']: image['file_name'] for image in document['images']}
            for name in names.values():
                (fresh / split / name).mkdir(parents=True)
            for note in document['annotations']:
                if note['iscrowd'] or min(note['bbox'][2:]) < SMALLEST:
                    continue
                file = coco / folder / files[note['image_id']]
                image = cv2.imread(str(file))
                if image is None:
                    raise UserError(f'{str(file)!r} is no image that can be read; restore it')
                target = fresh / split / names[note['category_id']] / f'{note["id"]:012d}.png'
                cv2.imwrite(str(target), crop(image, note['bbox'], size))
        fresh.rename(out)
    return out


def crop(image: np.ndarray, box: list[float], size: int) -> np.ndarray:
    """Cut out the square around a box; outside the image, repeat the pixels of its border.

    Args:
        image: (H, W, 3), uint8.
        box: x, y, width, height in pixels.
        size: Side of the result in pixels.

    Returns:
        (size, size, 3), uint8.
    """
    x, y, width, height = box
    side = max(width, height) * (1 + 2 * MARGIN)
    left, top = x + (width - side) / 2, y + (height - side) / 2
    scale = size / side
    # From the centres of pixels to the centres of pixels.
    matrix = np.array(
        [[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]]
    )
    return cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
