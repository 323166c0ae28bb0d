"""Write predictions as pictures, label maps and JSON, in COCO's result format for detectors."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import cv2
import mmengine
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image
from torchvision.datasets.folder import find_classes
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from ...errors import UserError
from ...type_name import scope
from ...whole_files import writing
from ..draw import TOP
from ..show import make_annotator
from .pipeline import tested_dataset

SHEET, CELL = 36, 320  # pictures on a contact sheet, and their longest side in pixels


class Results:
    """A folder of predictions.

    Each image gets ``pictures/NAME.png``, and from a segmentor ``labels/NAME.png`` with the model's
    class numbers. At the end detectors and classifiers write ``predictions.json``, and several
    pictures are shown on ``contact_sheet.png``.

    Args:
        folder: The folder.
        cfg: The config, for the classes and their colors.
        score_thr: Smallest score of a drawn box; ``predictions.json`` has all boxes.
        draw: ``supervision`` or ``library``, see ``make_annotator``.

    Raises:
        UserError: If the folder cannot be written, or the classes are unknown.
    """

    def __init__(
        self, folder: str, cfg: Config, score_thr: float = 0.3, draw: str = 'supervision'
    ) -> None:
        self.folder = folder
        self.predictions: list[dict] | None = None
        self.pictures: list[str] = []
        with writing(os.path.join(folder, 'predictions.json')):  # fail before predicting
            pass
        self.names: list[str] = []
        init_default_scope(scope(cfg))
        dataset = DATASETS.build(dict(tested_dataset(cfg), lazy_init=True))
        self.classes = dataset.metainfo.get('classes') or folder_classes(dataset)
        self.categories = category_ids(self.classes)
        metainfo = dict(dataset.metainfo, classes=self.classes)
        self.annotator = make_annotator(cfg, metainfo, score_thr, draw)

    def add(self, name: str, image: np.ndarray, sample: BaseDataElement) -> None:
        """Write the picture of an image, see ``as_picture``, and add its prediction."""
        self.add_prediction(name, sample)
        picture = self.draw(image, sample)
        self.pictures.append(self.write_png(os.path.join('pictures', name), picture))

    def add_prediction(self, name: str, sample: BaseDataElement) -> None:
        """Write a label map, or add a prediction to ``predictions.json``.

        Raises:
            UserError: If a class is beyond those of the config.
        """
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data[0].numpy()
            self.check_classes(labels)
            dtype = np.uint8 if len(self.classes) <= 256 else np.uint16
            self.write_png(os.path.join('labels', name), labels.astype(dtype))
            return
        self.names.append(name)
        self.predictions = self.predictions or []
        if 'pred_score' in sample:
            self.predictions.append(dict(image=name, top=self.top(sample)))
        else:
            self.check_classes(sample.pred_instances.labels.numpy())
            self.predictions.extend(coco_results(name, sample.pred_instances, self.categories))

    def top(self, sample: BaseDataElement) -> list[dict]:
        """Return the 5 most likely classes of a classifier, best first."""
        self.check_classes(np.arange(len(sample.pred_score)))
        scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
        return [
            {'label': label, 'class': self.classes[label], 'score': score}
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        ]

    def check_classes(self, labels: np.ndarray) -> None:
        """Raise a UserError for labels beyond the config's classes."""
        if labels.size and labels.max() >= len(self.classes):
            raise UserError(
                f'the model predicts class {labels.max()}, but the config has '
                f'{len(self.classes)} classes; use the config that it was trained with'
            )

    def draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw a prediction over an image, see ``as_picture``; return (H, W, 3), BGR."""
        return self.annotator.prediction(as_picture(image), sample)

    @contextmanager
    def video(
        self, name: str, fps: float, size: tuple[int, int]
    ) -> Iterator[Callable[[np.ndarray, BaseDataElement], object]]:
        """Open ``NAME.mp4`` and yield a function that draws and appends a frame.

        ``size`` is width and height in pixels. Raise a UserError if OpenCV cannot write the video.
        """
        with writing(os.path.join(self.folder, f'{name}.mp4')) as path:
            writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'mp4v'), fps, size)
            if not writer.isOpened():
                raise UserError(
                    f'OpenCV cannot write a video of {size[0]} x {size[1]} pixels at {fps:g} '
                    'frames a second; install an OpenCV with FFmpeg'
                )
            try:
                yield lambda image, sample: writer.write(self.draw(image, sample))
            finally:
                writer.release()

    def write_png(self, name: str, image: np.ndarray) -> str:
        """Write an image into the folder; return its path."""
        file = os.path.join(self.folder, f'{name}.png')
        with writing(file) as path:
            cv2.imwrite(path, image)
        return file

    def overview(self) -> str | None:
        """Return the path of the only picture, or write the first 36 on a contact sheet."""
        if len(self.pictures) < 2:
            return self.pictures[0] if self.pictures else None
        small = [thumbnail(file) for file in self.pictures[:SHEET]]
        return self.write_png('contact_sheet', tile(small, math.ceil(math.sqrt(len(small)))))

    def save(self) -> None:
        """Write the predictions of a detector or classifier.

        In COCO's format the id of an image is its name, as an integer if no other name is the same
        number.
        """
        if self.predictions is not None:
            numbers = Counter(int(name) for name in self.names if name.isdecimal())
            for entry in self.predictions:
                name = entry.get('image_id', '')
                if name.isdecimal() and numbers[int(name)] == 1:
                    entry['image_id'] = int(name)
            with writing(os.path.join(self.folder, 'predictions.json')) as path:
                mmengine.dump(self.predictions, path)


def thumbnail(file: str) -> np.ndarray:
    """Return a picture (H, W, 3), BGR, with no side longer than 320 pixels."""
    with Image.open(file) as image:
        image.thumbnail((CELL, CELL))
        return np.asarray(image)[..., ::-1]


def tile(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Arrange images (H, W, 3), uint8, of any sizes in rows, on a black background."""
    rows = math.ceil(len(images) / columns)
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    cells = np.zeros((rows * columns, height, width, 3), np.uint8)
    for cell, image in zip(cells, images, strict=False):
        cell[: image.shape[0], : image.shape[1]] = image
    grid = cells.reshape(rows, columns, height, width, 3)
    return grid.swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def as_picture(image: np.ndarray) -> np.ndarray:
    """Convert an image (H, W) or (H, W, C) of any dtype to a picture (H, W, 3), uint8, BGR.

    The first three channels are used. With one or two channels the first one is a gray picture.
    Values outside 0 to 255, or all up to 1, are rescaled to 0 to 255.
    """
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., :3] if image.shape[2] >= 3 else image[..., [0, 0, 0]]
    if image.dtype == np.uint8:
        return image
    image = np.nan_to_num(image.astype(np.float32))
    low, high = image.min(), image.max()
    if low < 0 or not 1 < high <= 255:
        image = (image - low) * (255 / (high - low) if high > low else 0)
    return image.round().astype(np.uint8)


def folder_classes(dataset: BaseDataset) -> list[str]:
    """Return the folder names of a data set of mmpretrain, or raise a UserError."""
    folder = getattr(dataset, 'img_prefix', None)
    with suppress(FileNotFoundError):
        if folder and not dataset.ann_file:
            return find_classes(folder)[0]
    raise UserError(
        'the test data of the config have neither class names nor a folder per class; set '
        'test_dataloader.dataset.metainfo.classes, or data_root to the parent of the folders'
    )


def category_ids(classes: Sequence[str]) -> list[int]:
    """Return COCO's category ids, which have gaps, for its classes; for others 1, 2, 3, ..."""
    coco = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
    coco_names = {name: i for i, name in enumerate(coco) if name not in ('__background__', 'N/A')}
    if set(classes) == set(coco_names):
        return [coco_names[name] for name in classes]
    return list(range(1, len(classes) + 1))


def coco_results(name: str, instances: BaseDataElement, categories: list[int]) -> list[dict]:
    """Return detections in COCO's result format, with the image's name as its id."""
    # Imported here, since segmentors do not need it.
    from pycocotools import mask as coco_mask

    boxes = instances.bboxes.numpy().astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    results = [
        dict(image_id=name, category_id=categories[label], bbox=box, score=score)
        for label, box, score in zip(
            instances.labels.tolist(), boxes.tolist(), instances.scores.tolist(), strict=True
        )
    ]
    if 'masks' in instances:
        for result, mask in zip(results, np.asarray(instances.masks), strict=True):
            encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            result['segmentation'] = dict(encoded, counts=encoded['counts'].decode())
    return results
