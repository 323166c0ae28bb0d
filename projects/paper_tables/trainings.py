"""Training nets with and without VanillaNet's ideas over several seeds (paper, Tables 1 and 2)."""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl

mpl.use('agg')
import matplotlib.pyplot as plt
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmvanilla.cli.config import set_data_root
from mmvanilla.datasets import crop_objects, make_shapes
from mmvanilla.deploy.files import replace_file
from mmvanilla.engine.latest import latest_checkpoint

SHAPES = dict(train=640, val=400)  # images, with about three objects each


@dataclass(frozen=True)
class Variant:
    """A cell of a table: a net, with some of its settings.

    Attributes:
        net: Name of the net, a row of the table.
        name: Name of the column.
        config: File in ``configs/ablation``, without ``_small`` and ``.py``.
        settings: Of the config's ``model.backbone``.
        published: Top-1 on ImageNet in percent.
    """

    net: str
    name: str
    config: str
    settings: dict = field(default_factory=dict)
    published: float | None = None


PUBLISHED = {('VanillaNet-6', 'both'): 76.36}
NETS = {'VanillaNet-6': 'vanillanet6', 'AlexNet': 'alexnet', 'ResNet-50': 'resnet50'}
IDEAS = {
    'neither': dict(deep_training=False, series_activation=False),
    'deep training': dict(deep_training=True, series_activation=False),
    'series activation': dict(deep_training=False, series_activation=True),
    'both': dict(deep_training=True, series_activation=True),
}
SHORTCUTS = {'none': None, 'before activation': 'before_act', 'after activation': 'after_act'}
TABLES = dict(
    table1=[
        Variant(net, name, config, settings, PUBLISHED.get((net, name)))
        for net, config in NETS.items()
        for name, settings in IDEAS.items()
    ],
    table2=[
        Variant('VanillaNet-6', name, 'vanillanet6', {'net.shortcut': shortcut})
        for name, shortcut in SHORTCUTS.items()
    ],
)
CLAIMS = dict(
    table1=(
        'The paper claims, on ImageNet: without the two ideas VanillaNet-6 loses tens of points '
        'and AlexNet several, while ResNet-50 hardly changes.'
    ),
    table2='The paper claims, on ImageNet: shortcuts bring VanillaNet nothing.',
)


@dataclass
class Run:
    """One training.

    Attributes:
        variant: What was trained.
        seed: Its seed.
        top1: Accuracy of the fused net on unseen images, in percent.
        cpu_seconds: Processor time it took, that of loaders in processes of their own aside.
    """

    variant: Variant
    seed: int
    top1: float
    cpu_seconds: float


def read_variant(variant: Variant, folder: Path, small: bool, seed: int) -> Config:
    """Return the config of one training.

    Args:
        variant: What to train.
        folder: The folder of the configs.
        small: Take the narrow net and the small set.
        seed: The seed.
    """
    cfg = Config.fromfile(folder / f'{variant.config}{"_small" if small else ""}.py')
    cfg.merge_from_dict({f'model.backbone.{k}': v for k, v in variant.settings.items()})
    if not cfg.model.backbone.deep_training:
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'DeepTrainingHook']
    if not small:
        cfg.auto_scale_lr.enable = True  # to the batch of one process
    cfg.randomness = dict(seed=seed)
    if not torch.cuda.is_available():
        cfg.sync_bn = None
    return cfg


def train(cfg: Config) -> tuple[float, float]:
    """Train once; return the accuracy of the fused net in percent and the processor time in s.

    A training that was interrupted goes on from its last checkpoint; one that is done is not done
    again, its result being kept beside its checkpoints.
    """
    kept = Path(cfg.work_dir, 'result.json')
    if kept.exists():
        result = json.loads(kept.read_text())
        return result['top1'], result['cpu_seconds']
    cfg.load_from = latest_checkpoint(cfg.work_dir)
    cfg.resume = cfg.load_from is not None
    start = time.process_time()
    runner = Runner.from_cfg(cfg)
    runner.train()
    top1 = runner.message_hub.get_scalar('val/accuracy/top1').current()
    result = dict(top1=float(top1), cpu_seconds=time.process_time() - start)
    replace_file(str(kept), json.dumps(result).encode())
    return result['top1'], result['cpu_seconds']


def run_table(
    what: str,
    configs: Path,
    out: Path,
    small: bool,
    seeds: list[int],
    on_run: Callable[[Run, int], None],
) -> list[Run]:
    """Train every variant of a table with every seed.

    Small nets are trained side by side, one on each core; the others one after the other.

    Args:
        what: A key of :data:`TABLES`.
        configs: The folder of the configs.
        out: Where full trainings keep their checkpoints and results; small ones keep none.
        small: Train narrow nets on a small set, which is generated.
        seeds: The seeds.
        on_run: Called after each training, with it and with how many there are.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, data = Path(scratch) if small else out / what, Path(scratch, 'crops')
        tasks = []
        for seed in seeds:
            for variant in TABLES[what]:
                cfg = read_variant(variant, configs, small, seed)
                name = f'{variant.net} {variant.name} {seed}'.lower().replace(' ', '_')
                cfg.experiment_name, cfg.work_dir = name, str(folder / name)
                cfg.log_level = 'ERROR' if small else 'INFO'
                if small:
                    set_data_root(cfg, str(data))
                tasks.append((variant, seed, cfg))
        if small:
            make_shapes(Path(scratch, 'shapes'), **SHAPES)
            crop_objects(Path(scratch, 'shapes/coco'), data)
        runs: dict[int, Run] = {}
        with start_workers(small) as workers:
            # The last seed's largest net first, so that the cores end together.
            order = range(len(tasks) - 1, -1, -1)
            pending = {workers.submit(train, tasks[i][-1]): i for i in order}
            try:
                for done in as_completed(pending):
                    i = pending[done]
                    runs[i] = Run(*tasks[i][:-1], *done.result())
                    on_run(runs[i], len(tasks))
            except BaseException:
                workers.shutdown(wait=False, cancel_futures=True)
                raise
    return [runs[i] for i in sorted(runs)]


def start_workers(small: bool) -> ProcessPoolExecutor:
    """Start a process for each core, with one thread, or one that has the whole machine."""
    spawn = multiprocessing.get_context('spawn')
    if not small:
        return ProcessPoolExecutor(1, spawn)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return ProcessPoolExecutor(cores, spawn, torch.set_num_threads, (1,))


def check_imagenet(configs: Path) -> None:
    """Check that there is what full trainings read.

    Args:
        configs: The folder of the configs.

    Raises:
        FileNotFoundError: If there is not.
    """
    cfg = read_variant(TABLES['table1'][0], configs, small=False, seed=0)
    root = cfg.train_dataloader.dataset.data_root
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f'there is no ImageNet in {root!r}; put it there, with its folders train and val, '
            'or try the small set with --small'
        )


def cells(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table: mean and standard deviation, and what was published."""
    groups = group(runs)
    nets = list(dict.fromkeys(net for net, _ in groups))
    names = list(dict.fromkeys(name for _, name in groups))
    header = ['Top-1, %', *names, 'seeds', 'published']
    rows = []
    for net in nets:
        known = [
            f'{name} {run.variant.published:.2f}'
            for name in names
            for run in groups[net, name][:1]
            if run.variant.published
        ]
        rows.append(
            [
                net,
                *(describe([run.top1 for run in groups[net, name]]) for name in names),
                str(len(groups[net, names[0]])),
                ', '.join(known) or '-',
            ]
        )
    return header, rows


def group(runs: list[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs by net and variant, in their order."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.variant.net, run.variant.name), []).append(run)
    return groups


def describe(values: list[float], digits: int = 2) -> str:
    """Return mean and standard deviation of some values."""
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{digits}f}{spread}'


def plot(runs: list[Run], file: str | Path) -> None:
    """Draw every run as a dot and the mean of each variant as a line; the published ones as stars.

    Args:
        runs: The runs.
        file: The PNG file to write.
    """
    groups = group(runs)
    names = list(dict.fromkeys(name for _, name in groups))
    nets = list(dict.fromkeys(net for net, _ in groups))
    figure, axes = plt.subplots(figsize=(2 + 2.4 * len(nets), 4), layout='constrained')
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        for i, net in enumerate(nets):
            members = groups[net, name]
            values, color = [run.top1 for run in members], f'C{k}'
            place = i + (k - (len(names) - 1) / 2) * width
            axes.plot([place] * len(values), values, 'o', color=color, alpha=0.6)
            mean = statistics.mean(values)
            label = name if i == 0 else None
            axes.hlines(mean, place - width / 3, place + width / 3, color=color, label=label)
            if members[0].variant.published:
                axes.plot(place, members[0].variant.published, '*', color='0.4', markersize=10)
                axes.annotate(
                    'published,\nImageNet',
                    (place, members[0].variant.published),
                    (6, -4),
                    textcoords='offset points',
                    fontsize=7,
                    color='0.4',
                )
    axes.set_xticks(range(len(nets)), nets)
    axes.set(ylabel='Top-1 on unseen images, %', xlim=(-0.5, len(nets) - 0.5))
    axes.grid(axis='y', alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)
