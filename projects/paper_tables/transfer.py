"""Compare detectors with a pre-trained backbone with detectors from scratch, on the shapes."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmvanilla import make_shapes

from .crops import crop_objects
from .trainings import CONFIGS, SHAPES, run_all, set_crops, spread

DETECTOR = Path(__file__).parents[2] / 'configs/mask_rcnn_vanillanet13_shapes.py'
EPOCHS = 1  # of the demo's 4, with 200 iterations each
WAYS = ('from scratch', 'pre-trained')
METRICS = ('box AP', 'mask AP')


@dataclass
class Result:
    """One detector.

    Attributes:
        way: One of :data:`WAYS`.
        seed: Seed of the training and the pre-training.
        box_ap: On unseen images, 0 to 1.
        mask_ap: On unseen images, 0 to 1.
        top1: Accuracy of the pre-trained classifier in percent; None from scratch.
    """

    way: str
    seed: int
    box_ap: float
    mask_ap: float
    top1: float | None = None

    def __str__(self) -> str:
        """Return the result in one line."""
        return f'{self.way}, seed {self.seed}: box AP {self.box_ap:.3f}'


def pretrain(crops: Path, work_dir: Path, seed: int) -> tuple[str, float]:
    """Train the detector's backbone as a classifier; return its checkpoint and its Top-1 in %."""
    cfg = Config.fromfile(CONFIGS / 'vanillanet13_small.py')
    set_crops(cfg, crops)
    runner = start(cfg, work_dir, seed)
    runner.train()
    top1 = runner.message_hub.get_scalar('val/accuracy/top1').current()
    return runner.message_hub.get_info('last_ckpt'), float(top1)


def detect(data: Path, way: str, seed: int) -> Result:
    """Train one detector.

    Args:
        data: Folder with the detector's ``shapes/coco`` and the classifier's ``crops``.
        way: One of :data:`WAYS`.
        seed: The seed.
    """
    cfg = Config.fromfile(DETECTOR)
    shapes = data / 'shapes/coco'
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(shapes)
    cfg.val_evaluator.ann_file = str(shapes / 'annotations/instances_val2017.json')
    cfg.train_cfg.update(max_epochs=EPOCHS, val_interval=EPOCHS)
    cfg.param_scheduler[-1].end = EPOCHS
    cfg.default_hooks.checkpoint = None
    work_dir, top1 = data / f'{way} {seed}'.replace(' ', '_'), None
    if way == 'pre-trained':
        file, top1 = pretrain(data / 'crops', Path(f'{work_dir}_classifier'), seed)
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=file)
    runner = start(cfg, work_dir, seed)
    runner.train()
    scores = [
        float(runner.message_hub.get_scalar(f'val/coco/{kind}_mAP').current())
        for kind in ('bbox', 'segm')
    ]
    return Result(way, seed, *scores, top1)


def start(cfg: Config, work_dir: Path, seed: int) -> Runner:
    """Build a runner that logs only errors."""
    cfg.randomness = dict(seed=seed)
    cfg.sync_bn = None
    cfg.log_level = 'ERROR'
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    if 'visualizer' in cfg:
        cfg.visualizer.name = work_dir.name  # visualizers are found by name
    return Runner.from_cfg(cfg)


def run_transfer(seeds: list[int], on_result: Callable[[Result, int], None]) -> list[Result]:
    """Train detectors from scratch and from pre-trained backbones, one on each core.

    The classifiers see other images of the same shapes.

    Args:
        seeds: The seeds.
        on_result: Called after each detector with the result and the number of detectors.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        data = Path(scratch)
        make_shapes(data / 'shapes')
        make_shapes(data / 'others', **SHAPES, seed=1)
        crop_objects(data / 'others/coco', data / 'crops')
        # The longer way first.
        tasks = [(data, way, seed) for seed in seeds for way in reversed(WAYS)]
        results = run_all(detect, tasks, on_result, small=True)
    return sorted(results, key=lambda result: (WAYS.index(result.way), result.seed))


def cells(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table: every seed, mean and standard deviation."""
    seeds = sorted({result.seed for result in results})
    header = [f'after {EPOCHS} of 4 epochs', *(f'seed {seed}' for seed in seeds), 'mean ± std']
    rows = []
    for metric in METRICS:
        for way in WAYS:
            members = [result for result in results if result.way == way]
            values = [r.box_ap if metric == 'box AP' else r.mask_ap for r in members]
            rows.append(
                [f'{metric}, {way}', *(f'{value:.3f}' for value in values), spread(values, 3)]
            )
    return header, rows


def verdict(results: list[Result]) -> str:
    """Say by how much pre-training changes box AP, and whether the seeds agree."""
    scores = {(r.way, r.seed): r.box_ap for r in results}
    seeds = sorted({result.seed for result in results})
    gains = [scores[WAYS[1], seed] - scores[WAYS[0], seed] for seed in seeds]
    better = sum(gain > 0 for gain in gains)
    return (
        f'Pre-training changes box AP by {statistics.mean(gains):+.3f} on average; '
        f'it is better with {better} of {len(gains)} seeds.'
    )
