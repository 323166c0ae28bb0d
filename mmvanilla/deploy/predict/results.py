"""Write predictions as pictures, label maps, JSON Lines and JSON."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image
from torchvision.datasets.folder import find_classes

from ...errors import CheckpointError, UserError
from ...type_name import scope
from ...whole_files import writing
from ..draw import TOP
from ..show import make_annotator
from .coco import CocoFormat
from .inputs import Input
from .lines import Lines
from .pipeline import tested_dataset

SHEET, CELL = 36, 320  # pictures on a contact sheet, and their longest side in pixels


class Results:
    """A folder of predictions.

    Each image gets ``pictures/NAME.png`` and a line in ``predictions.jsonl``, and from a segmentor
    ``labels/NAME.png`` with the model's class numbers. At the end detectors and classifiers write
    ``predictions.json``, and several pictures are shown on ``contact_sheet.png``.

    Args:
        folder: The folder.
        cfg: The config, for the classes and their colors.
        score_thr: Smallest score of a drawn box; ``predictions.json`` has all boxes.
        draw: ``supervision`` or ``library``, see ``make_annotator``.
        pictures: Draw pictures and videos.

    Raises:
        UserError: If the folder cannot be written, or the classes are unknown.
    """

    def __init__(
        self,
        folder: str,
        cfg: Config,
        score_thr: float = 0.3,
        draw: str = 'supervision',
        pictures: bool = True,
    ) -> None:
        self.folder, self.pictures = folder, pictures
        self.json_path = os.path.join(folder, 'predictions.json')
        with writing(self.json_path):  # fail before predicting
            pass
        self.lines = Lines(folder)
        self.video = ExitStack()
        self.append_frame: Callable[[np.ndarray], None] | None = None
        init_default_scope(scope(cfg))
        dataset = DATASETS.build(dict(tested_dataset(cfg), lazy_init=True))
        self.classes = dataset.metainfo.get('classes') or folder_classes(dataset)
        self.coco = CocoFormat(dataset, self.classes)
        metainfo = dict(dataset.metainfo, classes=self.classes)
        self.annotator = make_annotator(cfg, metainfo, score_thr, draw)

    def start(self, inputs: list[Input], run: Mapping, resume: bool = False) -> list[Input]:
        """Begin the folder, or resume it; return the missing inputs, see ``Lines.start``."""
        missing = self.lines.start(inputs, run, resume)
        self.coco.name_images({*(item.name for item in inputs), *self.lines.names})
        with suppress(FileNotFoundError):
            os.remove(self.json_path)
        for folder in ('.', 'pictures', 'labels'):  # of a run that was killed
            for scratch in Path(self.folder, folder).glob('.writing-*'):
                shutil.rmtree(scratch, ignore_errors=True)
        return missing

    def record(self, name: str, sample: BaseDataElement) -> dict:
        """Return the prediction of an image for its line.

        Raises:
            CheckpointError: If a class is beyond those of the config.
        """
        if 'pred_sem_seg' in sample:
            return dict(labels=f'labels/{name}.png')
        if 'pred_score' in sample:
            return dict(top=self.top(sample))
        self.check_classes(sample.pred_instances.labels.numpy())
        return dict(results=self.coco.results(name, sample.pred_instances))

    def label_map(self, sample: BaseDataElement) -> np.ndarray | None:
        """Return the class numbers (H, W) of a segmentor, uint8 for up to 256 classes."""
        if 'pred_sem_seg' not in sample:
            return None
        labels = sample.pred_sem_seg.data[0].numpy()
        self.check_classes(labels)
        return labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16)

    def top(self, sample: BaseDataElement) -> list[dict]:
        """Return the 5 most likely classes of a classifier, best first."""
        self.check_classes(np.arange(len(sample.pred_score)))
        scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
        return [
            {'label': label, 'class': self.classes[label], 'score': score}
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        ]

    def check_classes(self, labels: np.ndarray) -> None:
        """Raise a CheckpointError for labels beyond the config's classes."""
        if labels.size and labels.max() >= len(self.classes):
            raise CheckpointError(
                f'the model predicts class {labels.max()}, but the config has '
                f'{len(self.classes)} classes; use the config that it was trained with'
            )

    def draw(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Draw a prediction over an image, see ``as_picture``; return (H, W, 3), BGR."""
        return self.annotator.prediction(as_picture(image), sample)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of the disk into a UserError with the folder."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f'{self.folder!r} cannot be written ({error.strerror or error}); free disk space, '
                'and continue with --resume'
            ) from error

    def write_png(self, name: str, image: np.ndarray | bytes) -> str:
        """Write an image, or an encoded one, into the folder; return its path."""
        content = image if isinstance(image, bytes) else encode(image)
        path = os.path.join(self.folder, f'{name}.png')
        with writing(path) as scratch, open(scratch, 'wb') as file:
            file.write(content)
        return path

    def write_frame(self, name: str, fps: float, picture: np.ndarray) -> None:
        """Append a picture to ``NAME.mp4``, which begins with the first one."""
        if self.append_frame is None:
            path = os.path.join(self.folder, f'{name}.mp4')
            height, width = picture.shape[:2]
            video = writing_video(path, fps, (width, height))
            self.append_frame = self.video.enter_context(video)
        self.append_frame(picture)

    def end_video(self) -> None:
        """Complete the video that frames were written to, if any."""
        self.append_frame = None
        self.video.close()

    def finish(self) -> None:
        """Complete a video, and write the predictions of a detector or classifier as JSON.

        Raises:
            UserError: If the video is incomplete.
        """
        try:
            first = next((line for line in self.lines if entries_of(line) is not None), None)
            if first:
                self._write_json()
                if 'results' in first:
                    print_log(self.coco.source, 'current')
        finally:
            self.end_video()

    def _write_json(self) -> None:
        with self.writing(), writing(self.json_path) as path, open(path, 'w') as file:
            separator = '['
            for line in self.lines:
                for entry in entries_of(line) or ():
                    file.write(f'{separator}\n{json.dumps(entry)}')
                    separator = ','
            file.write('\n]\n' if separator == ',' else '[]\n')

    def overview(self, inputs: Iterable[Input]) -> str | None:
        """Return the path of the only picture, or write the first 36 on a contact sheet."""
        inputs = inputs if self.pictures else ()
        paths = (os.path.join(self.folder, 'pictures', f'{item.name}.png') for item in inputs)
        drawn = list(islice(filter(os.path.exists, paths), SHEET))
        if len(drawn) < 2:
            return drawn[0] if drawn else None
        small = [thumbnail(file) for file in drawn]
        with self.writing():
            return self.write_png('contact_sheet', tile(small, math.ceil(math.sqrt(len(small)))))


@contextmanager
def writing_video(
    file: str, fps: float, size: tuple[int, int]
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a picture (H, W, 3), uint8, BGR, to a video.

    ``size`` is width and height in pixels.

    Raises:
        UserError: If OpenCV cannot write the video, or not all frames fit on the disk.
    """
    with writing(file) as path:
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'mp4v'), fps, size)
        if not writer.isOpened():
            raise UserError(
                f'OpenCV cannot write a video of {size[0]} x {size[1]} pixels at {fps:g} '
                'frames a second; install an OpenCV with FFmpeg'
            )
        count = 0

        def append(picture: np.ndarray) -> None:
            nonlocal count
            writer.write(picture)
            count += 1

        try:
            yield append
        finally:
            writer.release()
        written = int(cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT))
        if written < count:  # OpenCV raises no errors
            raise UserError(
                f'{file!r} is not written, since {count - written} of {count} frames are missing '
                'in it; free disk space, and continue with --resume'
            )


def encode(image: np.ndarray) -> bytes:
    """Return an image as the content of a PNG file."""
    return cv2.imencode('.png', image)[1].tobytes()


def entries_of(line: Mapping) -> list[dict] | None:
    """Return the entries of a line in ``predictions.json``; None for label maps and videos."""
    if 'top' in line:
        return [dict(image=line['name'], top=line['top'])]
    return line.get('results')


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
