"""Time the drawing of predictions by supervision and by the visualizers of OpenMMLab.

    OMP_NUM_THREADS=1 python benchmarks/drawing.py [--size 480 640] [--repeat 20] [--out FOLDER]

Draws random objects with elliptic masks, a label map and a classification on noise. Prints the CPU
time of the calling thread in milliseconds, the median of the repeats; ``--out`` writes the
pictures.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from rich.console import Console
from rich.table import Table

import mmvanilla  # noqa: F401 - supplies mmcv's operators
from mmvanilla.deploy.show import make_annotator

CLASSES = 80


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--size', nargs=2, type=int, default=[480, 640], metavar=('HEIGHT', 'WIDTH')
    )
    parser.add_argument('--repeat', type=int, default=20, metavar='N')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='where to write the pictures')
    return parser.parse_args()


def objects(count: int, height: int, width: int) -> BaseDataElement:
    """Return detections with masks; sides are 5 to 40 % of the picture's."""
    from mmdet.structures import DetDataSample

    rng = np.random.default_rng(0)
    sides = rng.uniform(0.05, 0.4, (count, 2)) * (width, height)
    starts = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
    masks = np.zeros((count, height, width), np.uint8)
    for mask, start, side in zip(masks, starts, sides, strict=True):
        center, axes = (start + side / 2).astype(int), (side / 2).astype(int)
        cv2.ellipse(mask, center.tolist(), axes.tolist(), 0, 0, 360, 1, -1)
    instances = InstanceData(
        bboxes=torch.from_numpy(np.hstack([starts, starts + sides])).float(),
        labels=torch.from_numpy(rng.integers(0, CLASSES, count)),
        scores=torch.linspace(0.99, 0.31, count),
        masks=torch.from_numpy(masks).bool(),
    )
    return DetDataSample(pred_instances=instances)


def regions(height: int, width: int) -> BaseDataElement:
    """Return a label map with 20 classes."""
    from mmseg.structures import SegDataSample

    blocks = np.arange(20, dtype=np.int64).reshape(4, 5)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
    labels = torch.from_numpy(blocks[rows][:, columns])
    return SegDataSample(pred_sem_seg=PixelData(data=labels[None]))


def classification() -> BaseDataElement:
    """Return the scores of an image."""
    from mmpretrain.structures import DataSample

    return DataSample().set_pred_score(torch.linspace(0, 1, CLASSES).softmax(0))


def cases(height: int, width: int) -> Iterator[tuple[str, str, BaseDataElement]]:
    """Yield the name, the library and the sample of each drawing."""
    for count in (10, 100):
        yield f'{count} objects with masks', 'mmdet', objects(count, height, width)
    yield 'label map of 20 classes', 'mmseg', regions(height, width)
    yield 'classification', 'mmpretrain', classification()


def milliseconds(draw: Callable[[], object], repeat: int) -> float:
    """Return the median CPU time of a call, after one call to warm up."""
    draw()
    times = []
    for _ in range(repeat):
        start = time.thread_time()
        draw()
        times.append(time.thread_time() - start)
    return statistics.median(times) * 1000


def main() -> None:
    """Run the command."""
    args = parse_args()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (*args.size, 3), np.uint8)
    palette = list(map(tuple, rng.integers(0, 255, (CLASSES, 3)).tolist()))
    metainfo = dict(classes=[f'class {i}' for i in range(CLASSES)], palette=palette)
    table = Table('CPU time in ms', 'supervision', 'library')
    for name, library, sample in cases(*args.size):
        init_default_scope(library)
        row = [name]
        for draw in ('supervision', 'library'):
            annotator = make_annotator(Config(dict(default_scope=library)), metainfo, 0.3, draw)
            took = milliseconds(lambda a=annotator, s=sample: a.prediction(picture, s), args.repeat)
            row.append(f'{took:.1f}')
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                drawn = annotator.prediction(picture, sample)
                cv2.imwrite(str(args.out / f'{name}, {draw}.png'), drawn)
        table.add_row(*row)
    Console().print(table)


if __name__ == '__main__':
    main()
