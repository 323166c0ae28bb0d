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
from typing import TypeVar

import matplotlib as mpl

mpl.use('agg')
import matplotlib.pyplot as plt
import torch
from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint

from mmvanilla import make_shapes, safe_loading
from mmvanilla.whole_files import replace_file

from .crops import crop_objects
from .nets import TwoIdeas  # noqa: F401 - registers the nets, in the processes that train, too

T = TypeVar('T')
CONFIGS = Path(__file__).parent / 'configs'
SHAPES = dict(train=640, val=400)  # images, with about three objects each


@dataclass(frozen=True)
class Variant:
    """A cell of a table: a net with settings.

    Attributes:
        net: Name of the net, a row of the table.
        name: Name of the column.
        config: File in ``configs``, without ``_small.py`` or ``_full.py``.
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
        variant: The net.
        seed: Its seed.
        top1: Accuracy of the fused net on unseen images, in percent.
        cpu_seconds: CPU time without data loading workers.
    """

    variant: Variant
    seed: int
    top1: float
    cpu_seconds: float

    def __str__(self) -> str:
        """Return the result in one line."""
        return f'{self.variant.net}, {self.variant.name}, seed {self.seed}: {self.top1:.2f} %'


def read_variant(variant: Variant, small: bool, seed: int) -> Config:
    """Return the config of one training.

    Args:
        variant: The net to train.
        small: Take the narrow net and the small set.
        seed: The seed.
    """
    cfg = Config.fromfile(CONFIGS / f'{variant.config}_{"small" if small else "full"}.py')
    cfg.merge_from_dict({f'model.backbone.{k}': v for k, v in variant.settings.items()})
    if not cfg.model.backbone.deep_training:
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'DeepTrainingHook']
    if not small:
        cfg.auto_scale_lr.enable = True  # to the batch of one process
    cfg.randomness = dict(seed=seed)
    if not torch.cuda.is_available():
        cfg.sync_bn = None
    return cfg


def set_crops(cfg: Config, folder: Path) -> None:
    """Let a small config read its images from a folder of crops, in place."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(folder)


def train(variant: Variant, seed: int, cfg: Config) -> Run:
    """Train once and measure the accuracy of the fused net.

    An interrupted training resumes from its last checkpoint. The result of a finished one is read
    from the file next to its checkpoints.
    """
    result = Path(cfg.work_dir, 'result.json')
    if not result.exists():
        cfg.load_from = find_latest_checkpoint(cfg.work_dir)
        cfg.resume = cfg.load_from is not None
        start = time.process_time()
        runner = Runner.from_cfg(cfg)
        with safe_loading():
            runner.train()
        top1 = float(runner.message_hub.get_scalar('val/accuracy/top1').current())
        facts = dict(top1=top1, cpu_seconds=time.process_time() - start)
        replace_file(str(result), json.dumps(facts).encode())  # complete or missing
    return Run(variant, seed, **json.loads(result.read_text()))


def run_table(
    what: str, out: Path, small: bool, seeds: list[int], on_run: Callable[[Run, int], None]
) -> list[Run]:
    """Train every variant of a table with every seed.

    Small nets are trained in parallel, one on each core; full nets one after the other.

    Args:
        what: A key of :data:`TABLES`.
        out: Folder for the checkpoints and results of full trainings.
        small: Train narrow nets on a small generated set.
        seeds: The seeds.
        on_run: Called after each training with the run and the number of runs.
    """
    # Workers that are interrupted may still write.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder, data = Path(scratch) if small else out / what, Path(scratch, 'crops')
        tasks = []
        for seed in seeds:
            for variant in TABLES[what]:
                cfg = read_variant(variant, small, seed)
                name = f'{variant.net} {variant.name} {seed}'.lower().replace(' ', '_')
                cfg.experiment_name, cfg.work_dir = name, str(folder / name)
                cfg.log_level = 'ERROR' if small else 'INFO'
                if small:
                    set_crops(cfg, data)
                tasks.append((variant, seed, cfg))
        if small:
            make_shapes(Path(scratch, 'shapes'), **SHAPES)
            crop_objects(Path(scratch, 'shapes/coco'), data)
        # Largest nets first, so that the cores finish together.
        return run_all(train, tasks[::-1], on_run, small)[::-1]


def run_all(
    function: Callable[..., T], tasks: list[tuple], on_done: Callable[[T, int], None], small: bool
) -> list[T]:
    """Call a function in processes, once for each task; return the results.

    Args:
        function: The function.
        tasks: Arguments of each call.
        on_done: Called after each with the result and the number of tasks.
        small: See :func:`start_workers`.
    """
    with start_workers(small) as workers:
        pending = [workers.submit(function, *task) for task in tasks]
        try:
            for done in as_completed(pending):
                on_done(done.result(), len(tasks))
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return [done.result() for done in pending]


def start_workers(small: bool) -> ProcessPoolExecutor:
    """Start a single-threaded process for each core, or one process with all threads."""
    spawn = multiprocessing.get_context('spawn')
    if not small:
        return ProcessPoolExecutor(1, spawn)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return ProcessPoolExecutor(cores, spawn, torch.set_num_threads, (1,))


def check_imagenet() -> None:
    """Check that ImageNet exists.

    Raises:
        FileNotFoundError: If it does not.
    """
    cfg = read_variant(TABLES['table1'][0], small=False, seed=0)
    root = cfg.train_dataloader.dataset.data_root
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f'there is no ImageNet in {root!r}; put its folders train and val there, or use '
            'the small set by --small'
        )


def cells(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: mean, standard deviation and published figures."""
    nets, rows = group(runs), []
    for net, columns in nets.items():
        scores = [spread([run.top1 for run in members]) for members in columns.values()]
        known = [
            f'{name} {members[0].variant.published:.2f}'
            for name, members in columns.items()
            if members[0].variant.published
        ]
        seeds = len({run.seed for run in runs})
        rows.append([net, *scores, str(seeds), ', '.join(known) or '-'])
    names = next(iter(nets.values()))
    return ['Top-1, %', *names, 'seeds', 'published'], rows


def group(runs: list[Run]) -> dict[str, dict[str, list[Run]]]:
    """Return the runs of each net and column, in order."""
    nets: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        nets.setdefault(run.variant.net, {}).setdefault(run.variant.name, []).append(run)
    return nets


def spread(values: list[float], digits: int = 2) -> str:
    """Return mean and standard deviation."""
    deviation = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{digits}f}{deviation}'


def plot(runs: list[Run], file: str | Path) -> None:
    """Draw runs as dots, means as lines and published figures as stars.

    Args:
        runs: The runs.
        file: The PNG file to write.
    """
    nets = group(runs)
    figure, axes = plt.subplots(figsize=(2 + 2.4 * len(nets), 4), layout='constrained')
    for i, columns in enumerate(nets.values()):
        width = 0.8 / len(columns)
        for k, (name, members) in enumerate(columns.items()):
            values, color = [run.top1 for run in members], f'C{k}'
            place = i + (k - (len(columns) - 1) / 2) * width
            axes.plot([place] * len(values), values, 'o', color=color, alpha=0.6)
            mean = statistics.mean(values)
            label = name if i == 0 else None
            axes.hlines(mean, place - width / 3, place + width / 3, color=color, label=label)
            if published := members[0].variant.published:
                axes.plot(place, published, '*', color='0.4', markersize=10)
                note = dict(textcoords='offset points', fontsize=7, color='0.4')
                axes.annotate('published,\nImageNet', (place, published), (6, -4), **note)
    axes.set_xticks(range(len(nets)), nets)
    axes.set(ylabel='Top-1 on unseen images, %', xlim=(-0.5, len(nets) - 0.5))
    axes.grid(axis='y', alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)
