"""Predictions as pictures, as JSON (a detector's in COCO's result format) and as label maps."""

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import cv2
import mmengine
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image
from torchvision.datasets.folder import find_classes
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from ...errors import UserError
from ...type_name import scope
from ..files import writing
from ..show import visualizer_config
from .pipeline import tested_dataset

TOP = 5  # classes of an image that are told
SHEET, CELL = 36, 320  # pictures on a contact sheet, and the longest side of one in pixels


class Results:
    """Writes predictions into a folder.

    Of every image ``pictures/NAME.png``; of a segmentor also ``labels/NAME.png``, whose pixels are
    the classes as the model numbers them; of a detector or classifier, at the end,
    ``predictions.json``; of several pictures ``contact_sheet.png``.

    Args:
        folder: Where to write.
        cfg: The config, which knows the classes and their colours.
        score_thr: Boxes of a lower score are not drawn; ``predictions.json`` has all.

    Raises:
        UserError: If the folder cannot be written, or nothing says what the classes are.
    """

    def __init__(self, folder: str, cfg: Config, score_thr: float = 0.3) -> None:
        self.folder = folder
        self.score_thr = score_thr
        self.predictions: list[dict] | None = None
        self.pictures: list[str] = []
        with writing(os.path.join(folder, 'predictions.json')):  # fails now, not after the work
            pass
        self.names: list[str] = []
        init_default_scope(scope(cfg))
        dataset = DATASETS.build(dict(tested_dataset(cfg), lazy_init=True))
        self.classes = dataset.metainfo.get('classes') or folder_classes(dataset)
        meta = dict(dataset.metainfo, classes=self.classes)
        self.categories = category_ids(self.classes)
        visualizer = {**visualizer_config(cfg), 'vis_backends': None, 'save_dir': None}
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # it has no backend, since pictures are written here
            self.visualizer = VISUALIZERS.build(visualizer)
        self.visualizer.dataset_meta = meta

    def add(self, name: str, image: np.ndarray, sample: BaseDataElement) -> None:
        """Write the picture of an image, see ``as_picture``, and keep or write its prediction.

        Raises:
            UserError: If it has a class that the config does not know.
        """
        self.add_prediction(name, sample)
        picture = self.draw(image, sample)
        self.pictures.append(self.write_png(os.path.join('pictures', name), picture))

    def add_prediction(self, name: str, sample: BaseDataElement) -> None:
        """Keep or write the prediction of an image, without a picture.

        Raises:
            UserError: If it has a class that the config does not know.
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
        """Return the classes that a classifier holds for the likeliest, at most 5, best first."""
        self.check_classes(np.arange(len(sample.pred_score)))
        scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
        return [
            {'label': label, 'class': self.classes[label], 'score': score}
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        ]

    def check_classes(self, labels: np.ndarray) -> None:
        """Refuse labels beyond the config's classes."""
        if labels.size and labels.max() >= len(self.classes):
            raise UserError(
                f'the model predicts class {labels.max()}, but the config has '
                f'{len(self.classes)} classes; use the config that it was trained with'
            )

    def draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw a prediction over an image, see ``as_picture``; return (H, W, 3), BGR."""
        picture = np.ascontiguousarray(as_picture(image)[..., ::-1])
        if 'pred_score' in sample:
            best = sample.new()
            best.set_pred_label([entry['label'] for entry in self.top(sample)])
            drawn = self.visualizer.visualize_cls(picture, best, draw_gt=False)
            return np.ascontiguousarray(drawn[..., ::-1])
        options = {} if 'pred_sem_seg' in sample else dict(pred_score_thr=self.score_thr)
        self.visualizer.add_datasample('prediction', picture, sample, draw_gt=False, **options)
        return np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])

    @contextmanager
    def video(
        self, name: str, fps: float, size: tuple[int, int]
    ) -> Iterator[Callable[[np.ndarray, BaseDataElement], object]]:
        """Open ``NAME.mp4`` and yield a function that draws and appends a frame.

        It has ``fps`` frames a second of ``size`` (width, height) in pixels.

        Raises:
            UserError: If OpenCV cannot write it.
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
        """Write an image below the folder; return its path."""
        file = os.path.join(self.folder, f'{name}.png')
        with writing(file) as path:
            cv2.imwrite(path, image)
        return file

    def overview(self) -> str | None:
        """Return the path of the picture, if there is one, or of several on one, which is written.

        It has the first 36 in reading order, none longer than 320 pixels.
        """
        if len(self.pictures) < 2:
            return self.pictures[0] if self.pictures else None
        small = [thumbnail(file) for file in self.pictures[:SHEET]]
        return self.write_png('contact_sheet', tile(small, math.ceil(math.sqrt(len(small)))))

    def save(self) -> None:
        """Write the predictions of a detector or classifier.

        In COCO's format an image whose name is a number, which no other image has, has it as its
        id; the id of another is its name.
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
    """Return images (H, W, 3), uint8, of any sizes on one, in reading order, black between them."""
    rows = math.ceil(len(images) / columns)
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    cells = np.zeros((rows * columns, height, width, 3), np.uint8)
    for cell, image in zip(cells, images, strict=False):
        cell[: image.shape[0], : image.shape[1]] = image
    grid = cells.reshape(rows, columns, height, width, 3)
    return grid.swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def as_picture(image: np.ndarray) -> np.ndarray:
    """Return what a config's step loads as an image (H, W, 3), uint8, BGR.

    Args:
        image: (H, W) or (H, W, C) of any type. One or two channels give a grey picture of the
            first, more the first three. Values other than 0 to 255 are stretched to these.
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
    """Return the classes of a data set of mmpretrain that has one folder for each.

    Raises:
        UserError: If there are no such folders.
    """
    folder = getattr(dataset, 'img_prefix', None)
    with suppress(FileNotFoundError):
        if folder and not dataset.ann_file:
            return find_classes(folder)[0]
    raise UserError(
        'the test data of the config name no classes and have no folder for each; set '
        'test_dataloader.dataset.metainfo.classes, or data_root to where the folders are'
    )


def category_ids(classes: Sequence[str]) -> list[int]:
    """Return the number of each class in result files: COCO's own, which has gaps, else 1, 2, 3."""
    coco = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
    coco_names = {name: i for i, name in enumerate(coco) if name not in ('__background__', 'N/A')}
    if set(classes) == set(coco_names):
        return [coco_names[name] for name in classes]
    return list(range(1, len(classes) + 1))


def coco_results(name: str, instances: BaseDataElement, categories: list[int]) -> list[dict]:
    """Return detections in COCO's result format, with an image's name as its id."""
    # Only here, so that segmentors can do without mmdet.
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
