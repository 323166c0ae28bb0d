"""Plot a training's curves: tools/plot_log.py WORK_DIR --out FILE.png."""

import argparse
from pathlib import Path

from mmvanilla.cli import add_arguments, one_sentence_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Plot a training's losses and validation results.")
    parser.add_argument('work_dir', type=Path, help='work dir of the training')
    parser.add_argument('--out', type=Path, required=True, help='picture to write')
    add_arguments(parser, '--debug')
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import json

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use('agg')


METRICS = ('mAP', 'mIoU', 'top1')


def read_scalars(work_dir: Path) -> list[dict]:
    """Return what was logged in all runs of a work dir, in order, tests left out.

    Raises:
        FileNotFoundError: If there is no log of a training.
    """
    rows = []
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        rows += [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row for row in rows if 'step' in row]
    if not any('loss' in row for row in rows):
        raise FileNotFoundError(f'there is no log of a training in {str(work_dir)!r}')
    return rows


def plot(rows: list[dict], out: Path) -> None:
    """Draw the losses over the iterations and the validation results over the epochs."""
    losses = [row for row in rows if 'loss' in row]
    results = [row for row in rows if any(key.endswith(METRICS) for key in row)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    for key in sorted({key for row in losses for key in row if 'loss' in key}):
        points = [(row['iter'], row[key]) for row in losses if key in row]
        left.plot(*zip(*points, strict=True), label=key, linewidth=2 if key == 'loss' else 1)
    left.set(xlabel='iteration', ylabel='loss', yscale='log', title='Training')
    for key in sorted({key for row in results for key in row if key.endswith(METRICS)}):
        points = [(row['step'], row[key]) for row in results if key in row]
        right.plot(*zip(*points, strict=True), 'o-', label=key)
    right.set(xlabel='epoch or iteration', title='Validation')
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize='small')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def main(args: argparse.Namespace) -> None:
    """Plot."""
    with one_sentence_errors(args.debug, OSError, ValueError):
        plot(read_scalars(args.work_dir), args.out)
    print(args.out)


if __name__ == '__main__':
    main(args)
