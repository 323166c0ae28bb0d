"""Predictions in COCO's result format, with the ids of the annotation file if there is one."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from ...checks.documents import read_json
from .inputs import stem_of


class CocoFormat:
    """Ids of categories and images, and detections with them.

    Ids come from the data set's annotation file if it exists: category ids by the names of the
    classes, image ids by the names of the files without suffix. Otherwise categories have COCO's
    ids, which have gaps, if they are its classes, and 1, 2, 3 and so on if not. The id of another
    image is its name, as an integer if no other image has this number.

    Args:
        dataset: The data set; its annotations need not be loaded.
        classes: The class names in the order of the labels.

    Attributes:
        source: A sentence about the origin of the ids.
    """

    def __init__(self, dataset: BaseDataset, classes: Sequence[str]) -> None:
        file = getattr(dataset, 'ann_file', '')
        categories, images = ids_of(file)
        self.annotated: dict[str, int | str] = {}
        self.taken: set[int | str] = set()
        if set(classes) <= categories.keys():
            self.categories = [categories[name] for name in classes]
            counts = Counter(stem for stem, _ in images)
            self.annotated = {stem: i for stem, i in images if counts[stem] == 1}
            self.taken = {i for _, i in images}
            self.source = f'category and image ids are those of {os.path.abspath(file)}'
        else:
            self.categories = category_ids(classes)
            gaps = self.categories[-1:] != [len(classes)]
            self.source = f'category ids are {"those of COCO" if gaps else "1, 2, 3 and so on"}'
            self.source += ', since the config names no annotation file with its classes'

    def name_images(self, names: Iterable[str]) -> None:
        """Find the numbers that several names share, as 1 and 001 do."""
        numbers = Counter(int(name) for name in names if name.isdecimal())
        self.taken |= {number for number, count in numbers.items() if count > 1}

    def image_id(self, name: str) -> int | str:
        """Return the id of an image, by its name in the results."""
        if name in self.annotated:
            return self.annotated[name]
        number = int(name) if name.isdecimal() else None
        return name if number is None or number in self.taken else number

    def results(self, name: str, instances: BaseDataElement) -> list[dict]:
        """Return the detections in an image."""
        # Imported here, since segmentors do not need it.
        from pycocotools import mask as coco_mask

        boxes = instances.bboxes.numpy().astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        image_id = self.image_id(name)
        results = [
            dict(image_id=image_id, category_id=self.categories[label], bbox=box, score=score)
            for label, box, score in zip(
                instances.labels.tolist(), boxes.tolist(), instances.scores.tolist(), strict=True
            )
        ]
        if 'masks' in instances:
            masks = np.asarray(instances.masks, np.uint8)
            for result, mask in zip(results, masks, strict=True):
                columns_first = cv2.transpose(mask).T  # much faster than np.asfortranarray
                encoded = coco_mask.encode(columns_first)
                result['segmentation'] = dict(encoded, counts=encoded['counts'].decode())
        return results


def ids_of(file: str) -> tuple[dict[str, int], list[tuple[str, int | str]]]:
    """Read category ids by name, and image ids with stems; nothing from files of other formats."""
    try:
        content = read_json(file)
        categories = {each['name']: each['id'] for each in content['categories']}
        files = ((each.get('file_name') or each['coco_url'], each) for each in content['images'])
        return categories, [(stem_of(name), each['id']) for name, each in files]
    except (OSError, TypeError, KeyError, ValueError):
        return {}, []


def category_ids(classes: Sequence[str]) -> list[int]:
    """Return COCO's category ids, which have gaps, for its classes; for others 1, 2, 3, ..."""
    coco = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
    coco_names = {name: i for i, name in enumerate(coco) if name not in ('__background__', 'N/A')}
    if set(classes) == set(coco_names):
        return [coco_names[name] for name in classes]
    return list(range(1, len(classes) + 1))
