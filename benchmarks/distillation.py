"""Train students with and without a teacher on the shapes, over several seeds.

    python benchmarks/distillation.py --out work_dirs/distillation.json

Tasks: a classifier of cropped shapes (VanillaNet-6 at an eighth of its width) and the Mask R-CNN,
RetinaNet and UPerNet of configs/*_shapes_distill.py. Their teachers are the same nets, wider and
trained longer. Both ways start from the same weights and see the same images in the same order, for
the same number of steps. Writes a JSON file with all curves and times, a picture of the curves, and
prints a table.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib as mpl

mpl.use('agg')
import cv2
import matplotlib.pyplot as plt
import torch
from mmengine.config import Config

from mmvanilla import make_shapes, safe_loading
from mmvanilla.benchmark.tables import markdown
from mmvanilla.distill import add_teacher
from mmvanilla.engine import build_runner

ROOT = Path(__file__).parents[1]
WAYS = ('alone', 'with teacher')
METRICS = {
    'classifier': 'accuracy/top1',
    'mask_rcnn': 'coco/bbox_mAP',
    'retinanet': 'coco/bbox_mAP',
    'upernet': 'mIoU',
}
CLASSES = ('circle', 'crescent', 'cross', 'square', 'star', 'triangle')  # as mmpretrain sorts
CROP = 64  # pixels


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write')
    parser.add_argument('--tasks', nargs='+', choices=METRICS, default=list(METRICS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=600, help='steps of a student')
    parser.add_argument('--teacher-steps', type=int, default=1500, help='steps of a teacher')
    parser.add_argument('--points', type=int, default=6, help='validations of a training')
    parser.add_argument('--images', type=int, default=1600, help='training images of shapes')
    return parser.parse_args()


def write_crops(shapes: Path, root: Path) -> None:
    """Crop the objects of the shapes, with a margin, into a folder for each class."""
    for split in ('train', 'val'):
        content = json.loads((shapes / f'coco/annotations/instances_{split}2017.json').read_text())
        names = {image['id']: image['file_name'] for image in content['images']}
        classes = {category['id']: category['name'] for category in content['categories']}
        for each in content['annotations']:
            image = cv2.imread(str(shapes / f'coco/{split}2017' / names[each['image_id']]))
            x, y, width, height = map(round, each['bbox'])
            crop = image[max(y - 4, 0) : y + height + 4, max(x - 4, 0) : x + width + 4]
            folder = root / split / classes[each['category_id']]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{each["id"]}.png'), cv2.resize(crop, (CROP, CROP)))


def classifier(share: int) -> Config:
    """Return the config of a VanillaNet-6 at a share of its width, for the crops."""
    cfg = Config.fromfile(ROOT / 'configs/vanillanet6_imagenet.py')
    dims = [width // share for width in (512, 1024, 2048, 4096, 4096)]
    number = len(CLASSES)
    cfg.model.backbone.arch = dict(dims=dims, strides=[2, 2, 2, 1])
    cfg.model.head.update(in_channels=dims[-1], num_classes=number)
    cfg.model.head.loss.loss_weight = 1 / number
    cfg.model.data_preprocessor.num_classes = number
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=64, num_workers=1, persistent_workers=True)
        loader.dataset.metainfo = dict(classes=CLASSES)
        for step in loader.dataset.pipeline:
            if step.type == 'RandomResizedCrop':
                step.update(scale=CROP, crop_ratio_range=(0.5, 1.0))
        if split != 'train':
            keep = ('LoadImageFromFile', 'PackInputs')
            loader.dataset.pipeline = [s for s in loader.dataset.pipeline if s.type in keep]
    cfg.val_evaluator = cfg.test_evaluator = dict(type='Accuracy', topk=(1,))
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05)
    )
    return cfg


def config(task: str, teaches: bool, data: Path) -> Config:
    """Return the config of a student or of its teacher."""
    if task == 'classifier':
        cfg, root = classifier(4 if teaches else 8), data / 'crops'
    else:
        suffix = '' if teaches else '_distill'
        cfg = Config.fromfile(ROOT / f'configs/{task}_vanillanet13_shapes{suffix}.py')
        cfg.default_hooks.pop('distill', None)
        root = data / 'shapes' / ('ADEChallengeData2016' if task == 'upernet' else 'coco')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = f'{root}/'
    for key in ('val_evaluator', 'test_evaluator'):
        if 'ann_file' in cfg[key]:
            cfg[key].ann_file = f'{root}/annotations/instances_val2017.json'
    return cfg


def train(cfg: Config, folder: Path, seed: int, steps: int, points: int, metric: str) -> dict:
    """Train once; return the curve of the metric in percent and the seconds of a step."""
    every = max(steps // points, 1)
    cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=steps, val_interval=every)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    warm = max(min(40, steps // 4), 1)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm),
        dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=warm, end=steps),
    ]
    cfg.custom_hooks = [dict(type='ReseedHook')]
    cfg.default_hooks.checkpoint = dict(
        type='AtomicCheckpointHook', by_epoch=False, interval=steps, max_keep_ckpts=1
    )
    cfg.log_processor = dict(by_epoch=False, window_size=10)
    cfg.randomness = dict(seed=seed)
    cfg.log_level = 'WARNING'
    cfg.work_dir, cfg.experiment_name = str(folder), '_'.join(folder.parts[-2:])
    cfg.visualizer.name = cfg.experiment_name
    runner = build_runner(cfg)
    began = time.process_time()
    runner.train()
    seconds = time.process_time() - began
    logged = runner.message_hub.log_scalars.get(f'val/{metric}')
    values = [] if logged is None else logged.data[0].tolist()
    values = [0.0] * (steps // every - len(values)) + values  # no AP where nothing was found
    factor = 100 if metric.startswith('coco/') else 1  # AP are fractions
    return dict(
        steps=[every * (i + 1) for i in range(len(values))],
        values=[factor * value for value in values],
        cpu_seconds=seconds,  # with the validations, which both ways have
        seconds_per_step=float(runner.message_hub.get_scalar('train/time').mean()),
    )


def measure(task: str, args: argparse.Namespace, data: Path) -> dict:
    """Train a teacher, then a student with each seed in both ways."""
    metric, folder = METRICS[task], data / 'work' / task
    cfg = config(task, True, data)
    teacher = folder / 'teacher.py'
    folder.mkdir(parents=True)
    cfg.dump(teacher)
    learnt = train(cfg, folder / 'teacher', 0, args.teacher_steps, args.points, metric)
    weights = folder / f'teacher/iter_{args.teacher_steps}.pth'
    print(f'{task}: teacher {learnt["values"][-1]:.2f}', flush=True)
    students: dict[str, list] = {way: [] for way in WAYS}
    for seed in args.seeds:
        for way in WAYS:
            cfg = config(task, False, data)
            if way == WAYS[1]:
                add_teacher(cfg, f'{teacher}@{weights}')
            work = folder / f'{seed}_{way.replace(" ", "_")}'
            students[way].append(train(cfg, work, seed, args.steps, args.points, metric))
            print(f'{task}, seed {seed}, {way}: {students[way][-1]["values"][-1]:.2f}', flush=True)
    return dict(metric=metric, teacher=learnt, **students)


def summary(values: list[float]) -> str:
    """Return mean and standard deviation."""
    spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.2f}{spread}'


def report(results: dict[str, dict]) -> str:
    """Return the last values as a Markdown table."""
    header = ['task', 'metric', 'teacher', *WAYS, 'gain', 'time of a step, times']
    rows = []
    for task, result in results.items():
        last = {way: [run['values'][-1] for run in result[way]] for way in WAYS}
        gains = [b - a for a, b in zip(*last.values(), strict=True)]
        times = [statistics.mean(r['seconds_per_step'] for r in result[way]) for way in WAYS]
        row = [task, result['metric'], f'{result["teacher"]["values"][-1]:.2f}']
        row += [*map(summary, last.values()), summary(gains), f'{times[1] / times[0]:.2f}']
        rows.append(row)
    return markdown(header, rows)


def plot(results: dict[str, dict], file: Path) -> None:
    """Draw the curves of every run, a panel for each task."""
    size = dict(figsize=(3.6 * len(results), 3.2), squeeze=False, layout='constrained')
    figure, ((*panels,),) = plt.subplots(1, len(results), **size)
    for axes, (task, result) in zip(panels, results.items(), strict=True):
        for colour, way in zip(('C7', 'C0'), WAYS, strict=True):
            for i, run in enumerate(result[way]):
                axes.plot(run['steps'], run['values'], colour, label=None if i else way)
        axes.axhline(result['teacher']['values'][-1], color='C3', ls=':', label='teacher')
        axes.set(title=task, xlabel='step', ylabel=f'{result["metric"]}, %')
    panels[0].legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the command."""
    args = parse_args()
    safe_loading()
    results = {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        make_shapes(data / 'shapes', train=args.images)
        if 'classifier' in args.tasks:
            write_crops(data / 'shapes', data / 'crops')
        for task in args.tasks:
            results[task] = measure(task, args, data)
            facts = dict(vars(args), out=args.out.name, torch=torch.__version__, results=results)
            args.out.write_text(json.dumps(facts, indent=2) + '\n')
            plot(results, args.out.with_suffix('.png'))
    print(report(results))


if __name__ == '__main__':
    main()
