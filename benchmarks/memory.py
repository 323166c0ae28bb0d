"""Measure the resident memory over a long training and many predictions.

    python benchmarks/memory.py [--count 2000] [--json docs/memory.json] [--out docs/memory.png]

The tiny RetinaNet of the tests trains on shapes, with a data loading worker, a checkpoint every 100
iterations and a validation every 500; then it predicts images of random sizes. The resident memory
of the process is read after every step. The first fifth is the warm-up.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use('agg')
import matplotlib.pyplot as plt
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress, track

from mmvanilla import make_shapes
from mmvanilla.benchmark import make_predictor
from mmvanilla.benchmark.machine import processor

CONFIG = Path(__file__).parents[1] / 'tests/data/tiny_shapes.py'
EPOCH = 100  # iterations
WARM_UP = 0.2
LIMIT = 0.02


def resident(process: int | str = 'self') -> float:
    """Return the resident memory of a process in MiB (Linux), by default of this one."""
    pages = int(Path(f'/proc/{process}/statm').read_text().split()[1])
    return pages * 4096 / 2**20


class MemoryHook(Hook):
    """Read the resident memory after every iteration."""

    priority = 'LOWEST'

    def __init__(self, progress: Progress, count: int) -> None:
        self.memory = []
        self.progress = progress
        self.task = progress.add_task('training', total=count)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Read the memory."""
        self.memory.append(resident())
        self.progress.advance(self.task)


def train(cfg: Config, count: int) -> list[float]:
    """Train; return the memory after every iteration."""
    cfg.train_cfg.max_epochs = count // EPOCH
    cfg.train_cfg.val_interval = 5
    cfg.default_hooks.logger.interval = 10
    cfg.default_hooks.checkpoint.interval = EPOCH
    cfg.log_level = 'ERROR'
    with Progress(redirect_stdout=False, redirect_stderr=False) as progress:
        hook = MemoryHook(progress, count)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(hook)
        runner.train()
    return hook.memory


def predict(cfg: Config, file: str, count: int) -> list[float]:
    """Predict images of random sizes; return the memory after each."""
    cfg.test_dataloader.dataset.pipeline[1] = dict(type='Resize', scale_factor=1.0)
    predictor = make_predictor(cfg, file)
    chance = random.Random(0)
    noise = np.random.default_rng(0)
    memory = []
    for _ in track(range(count), 'predictions'):
        shape = (chance.randint(64, 320), chance.randint(64, 320), 3)
        predictor(noise.integers(0, 256, shape, dtype=np.uint8))
        memory.append(resident())
    return memory


def summarize(memory: list[float]) -> dict:
    """Compare the last fifth with the fifth after the warm-up, and the extremes after it."""
    fifth = int(len(memory) * WARM_UP)
    first = statistics.median(memory[fifth : 2 * fifth])
    last = statistics.median(memory[-fifth:])
    rest = memory[fifth:]
    return dict(
        after_warm_up_mib=round(first, 1),
        at_the_end_mib=round(last, 1),
        growth=round(last / first - 1, 4),
        spread=round(max(rest) / min(rest) - 1, 4),
    )


def main() -> None:
    """Run the command; exit with 1 if the memory is not flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--count', type=int, default=2000, help='steps of each kind (%(default)s)')
    parser.add_argument('--json', type=Path, help='file to write')
    parser.add_argument('--out', type=Path, help='picture to write')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='memory-') as folder:
        cfg = Config.fromfile(CONFIG)
        data = make_shapes(Path(folder, 'shapes'), 2 * EPOCH, 5, 64) / 'coco'
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.data_root = str(data)
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.ann_file = str(data / 'annotations/instances_val2017.json')
        cfg.work_dir = str(Path(folder, 'work'))
        memory = dict(training=train(cfg, args.count))
        file = Path(cfg.work_dir, 'last_checkpoint').read_text()
        memory['prediction'] = predict(cfg, file, args.count)
    result = dict(
        machine=processor(),
        python=platform.python_version(),
        torch=torch.__version__,
        count=args.count,
        **{kind: summarize(values) for kind, values in memory.items()},
    )
    print(json.dumps(result, indent=1))
    if args.json:
        thinned = {kind: [round(v, 1) for v in values[::10]] for kind, values in memory.items()}
        args.json.write_text(json.dumps(dict(result, every_tenth_mib=thinned)) + '\n')
    if args.out:
        plot(memory, args.out)
    flat = all(max(abs(result[kind]['growth']), result[kind]['spread']) <= LIMIT for kind in memory)
    sys.exit(0 if flat else 1)


def plot(memory: dict[str, list[float]], out: Path) -> None:
    """Draw the memory over the steps."""
    figure, axes = plt.subplots(1, len(memory), figsize=(11, 4), layout='constrained')
    for axis, (kind, values) in zip(axes, memory.items(), strict=True):
        axis.plot(values)
        axis.axvspan(0, WARM_UP * len(values), alpha=0.15, label='warm-up')
        level = statistics.median(values[int(WARM_UP * len(values)) :])
        axis.axhspan(level * (1 - LIMIT), level * (1 + LIMIT), alpha=0.15, color='C2', label='2 %')
        axis.set(xlabel='step', ylabel='resident memory / MiB', title=kind, ylim=(0, None))
        axis.legend(loc='lower right')
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


if __name__ == '__main__':
    main()
