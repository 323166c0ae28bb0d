"""Compare deep training with act_learn fixed at 1, from scratch on the shapes, over several seeds.

    python benchmarks/deep_training.py --out work_dirs/deep_training.json

Trains UPerNet with the narrow VanillaNet-13 of configs/upernet_vanillanet13_shapes.py, both times
from the same initial weights on the same images in the same order. Prints the mIoU of every run,
mean and spread, and draws them next to the JSON file.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use('agg')
import matplotlib.pyplot as plt
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmvanilla import make_shapes
from mmvanilla.benchmark.tables import markdown

ROOT = Path(__file__).parents[1]
WAYS = {'act_learn = 1': False, 'deep training': True}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--iters', type=int, default=400, help='iterations of each training')
    parser.add_argument(
        '--share', type=float, default=1 / 3, help='share of the training until act_learn is 1'
    )
    return parser.parse_args()


def train(data: Path, deep: bool, seed: int, iters: int, share: float) -> float:
    """Train once and return the mIoU in percent on unseen images."""
    cfg = Config.fromfile(ROOT / 'configs/upernet_vanillanet13_shapes.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(data / 'shapes/ADEChallengeData2016')
    cfg.custom_hooks = [dict(type='ReseedHook')]
    if deep:
        end = round(iters * share)
        cfg.custom_hooks.append(dict(type='DeepTrainingHook', end=end, by_epoch=False))
    cfg.train_cfg.update(max_iters=iters, val_interval=iters)
    cfg.param_scheduler[-1].end = iters
    cfg.randomness = dict(seed=seed)
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'WARNING'
    cfg.experiment_name = f'{deep}_{seed}'
    cfg.work_dir = str(data / 'work' / cfg.experiment_name)
    cfg.visualizer.name = cfg.experiment_name
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.model.backbone.act_learn == 1
    return runner.message_hub.get_scalar('val/mIoU').current()


def report(results: dict[str, list[float]], seeds: list[int]) -> str:
    """Return the results as a Markdown table."""
    header = ['', *(f'seed {seed}' for seed in seeds), 'mean', 'standard deviation']
    rows = []
    for way, values in results.items():
        numbers = [*values, statistics.mean(values), statistics.stdev(values)]
        rows.append([way, *(f'{value:.2f}' for value in numbers)])
    return markdown(header, rows)


def plot(results: dict[str, list[float]], file: Path) -> None:
    """Draw every run as a dot."""
    figure, axes = plt.subplots(figsize=(5, 3.5), layout='constrained')
    for position, values in enumerate(results.values()):
        axes.plot([position] * len(values), values, 'o')
        axes.hlines(statistics.mean(values), position - 0.15, position + 0.15)
    axes.set_xticks(range(len(results)), results)
    axes.set(ylabel='mIoU on unseen shapes, %', xlim=(-0.5, len(results) - 0.5))
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the command."""
    args = parse_args()
    results: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        make_shapes(data / 'shapes')
        for seed in args.seeds:
            for way, deep in WAYS.items():
                miou = float(train(data, deep, seed, args.iters, args.share))
                results[way].append(miou)
                print(f'seed {seed}, {way}: mIoU {miou:.2f}', flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    facts = dict(seeds=args.seeds, iters=args.iters, torch=torch.__version__, results=results)
    args.out.write_text(json.dumps(facts, indent=2) + '\n')
    plot(results, args.out.with_suffix('.png'))
    print(report(results, args.seeds))


if __name__ == '__main__':
    main()
