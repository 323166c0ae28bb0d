"""Kill and resume a training at random moments, and compare it with an undisturbed one.

    python benchmarks/kills.py [--kills 30] [--interval 5] [--json docs/kills.json]

A tiny RetinaNet learns shapes with a data loading worker, deep training, averaged weights and a
checkpoint every few iterations. SIGKILL comes at random moments, every third time while a
checkpoint is being written. For every kill the script prints the iteration and where the run
resumed. At the end it compares the losses, rates and act_learn of every iteration and the final
weights with the undisturbed run, bit by bit.
"""

import argparse
import contextlib
import importlib
import json
import os
import platform
import random
import re
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from rich.progress import Progress

from mmvanilla import make_shapes, safe_loading
from mmvanilla.benchmark.machine import processor

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'tests/data/tiny_shapes.py'
EPOCH = 12  # iterations, of two images each
LINE = re.compile(rb'Epoch\(train\) +\[(\d+)\]\[ *(\d+)/\d+\]')
RESUMED = re.compile(rb'resumed epoch: \d+, iter: (\d+)')


class Training:
    """A training in a forked process, which starts within a second."""

    def __init__(self, options: list[str]) -> None:
        self.seen = 0  # iterations logged
        self.resumed = 0
        self.printed = b''
        self.start = time.time()
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            train(options)
        os.close(writer)
        self.output = os.fdopen(reader, 'rb')

    def lines(self) -> Iterator[bytes]:
        """Yield the output and count the iterations."""
        for line in self.output:
            self.printed += line
            if match := RESUMED.search(line):
                self.resumed = self.seen = int(match[1])
            if match := LINE.search(line):
                self.seen = (int(match[1]) - 1) * EPOCH + int(match[2])
            yield line

    def run_until(self, iteration: float) -> bool:
        """Follow the training until an iteration is logged; return whether it was."""
        return any(self.seen >= iteration for _ in self.lines())

    def run_until_writing(self, work_dir: Path) -> None:
        """Follow the training until it writes a checkpoint; sometimes the write ends first."""
        any(b'Saving checkpoint' in line for line in self.lines())
        end = time.time() + 1
        while not self.writing(work_dir) and time.time() < end:
            pass

    def writing(self, work_dir: Path) -> list[str]:
        """Return the unfinished checkpoints of this training."""
        names = [name for name in os.listdir(work_dir) if name.endswith('.pth.partial')]
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile
            return [name for name in names if (work_dir / name).stat().st_mtime > self.start]
        return []

    def kill(self) -> None:
        """Kill the training with its workers, and read the rest of its output."""
        os.killpg(self.pid, signal.SIGKILL)
        self.run_until(float('inf'))
        os.waitpid(self.pid, 0)

    def finish(self) -> None:
        """Wait for the end of the training."""
        self.run_until(float('inf'))
        if os.waitpid(self.pid, 0)[1]:
            sys.exit(self.printed.decode()[-3000:])


def train(options: list[str]) -> None:
    """Run tools/train.py and exit this process with its code."""
    sys.argv = ['tools/train.py', str(CONFIG), *options]
    code = 1
    try:
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
        code = 0
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.stdout.flush()
        os._exit(code)


def scalars(work_dir: Path) -> dict[int, list[dict]]:
    """Return the logged rows of a work dir by iteration, without times and memory."""
    rows = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line cut off by a kill
                row = json.loads(line)
                row = {k: v for k, v in row.items() if k not in ('time', 'data_time', 'memory')}
                if 'loss' in row:  # a training row
                    rows.setdefault(row['step'], []).append(row)
    return rows


def state(work_dir: Path) -> dict:
    """Return weights, averaged weights, optimizer and schedules of the last checkpoint."""
    file = (work_dir / 'last_checkpoint').read_text()
    with safe_loading():
        checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
    optimizer = {
        f'{index}.{name}': value
        for index, values in checkpoint['optimizer']['state'].items()
        for name, value in values.items()
    }
    return {
        'weights': checkpoint['state_dict'],
        'averaged weights': checkpoint['ema_state_dict'],
        'optimizer': optimizer,
        'schedules': {
            f'{i}.{name}': torch.tensor(value)
            for i, schedule in enumerate(checkpoint['param_schedulers'])
            for name, value in schedule.items()
            if isinstance(value, (int, float))
        },
    }


def same(one: dict, other: dict) -> bool:
    """Compare two dicts of tensors bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=30, help='SIGKILLs (%(default)s)')
    parser.add_argument('--interval', type=int, default=5, help='of checkpoints (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (%(default)s)')
    parser.add_argument('--json', type=Path, help='file to write')
    args = parser.parse_args()
    chance = random.Random(args.seed)
    epochs = max(2, args.kills)
    total = epochs * EPOCH
    folder = Path(tempfile.mkdtemp(prefix='kills-'))
    data = make_shapes(folder / 'shapes', train=2 * EPOCH, val=2, size=64) / 'coco'
    options = ['--data-root', str(data), '--cfg-options', f'train_cfg.max_epochs={epochs}']
    options += [f'default_hooks.checkpoint.interval={args.interval}']
    importlib.import_module('mmdet.models')  # once before the forks, after mmvanilla
    start = time.time()

    # The forked processes must not print through the progress bar.
    with Progress(redirect_stdout=False, redirect_stderr=False) as progress:
        task = progress.add_task('undisturbed', total=total)
        whole = Training([*options, '--work-dir', str(folder / 'whole')])
        for iteration in range(1, total + 1):
            whole.run_until(iteration)
            progress.update(task, completed=iteration)
        whole.finish()

        parts = folder / 'parts'
        options = [*options, '--work-dir', str(parts), '--resume']
        kills = []
        moments = sorted(chance.sample(range(1, total - 2 * args.interval), args.kills))
        for number, moment in enumerate(progress.track(moments, description='killed'), start=1):
            run = Training(options)
            if not run.run_until(moment):
                sys.exit(run.printed.decode()[-3000:])
            if number % 3:
                time.sleep(chance.uniform(0, 0.1))
            else:
                run.run_until_writing(parts)
            run.kill()
            if kills:
                kills[-1]['resumed'] = run.resumed
            kills.append(dict(number=number, reached=run.seen, writing=run.writing(parts)))
    last = Training(options)
    last.finish()
    kills[-1]['resumed'] = last.resumed
    for kill in kills:
        kill['lost'] = kill['reached'] - kill['resumed']

    expected, found = scalars(folder / 'whole'), scalars(parts)
    rows = [row for step in found for row in found[step]]
    different = [row for row in rows if row != expected[row['step']][0]]
    ends = state(folder / 'whole'), state(parts)
    equal = {name: same(ends[0][name], ends[1][name]) for name in ends[0]}
    result = dict(
        machine=processor(),
        python=platform.python_version(),
        torch=torch.__version__,
        seconds=round(time.time() - start),
        iterations=total,
        interval=args.interval,
        seed=args.seed,
        kills=kills,
        killed_while_writing=sum(bool(kill['writing']) for kill in kills),
        largest_loss=max(kill['lost'] for kill in kills),
        rows_compared=len(rows),
        rows_different=len(different),
        iterations_missing=len(expected.keys() - found.keys()),
        identical=equal,
    )
    print_table(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + '\n')
    passed = all(equal.values()) and not different and result['largest_loss'] <= args.interval
    sys.exit(0 if passed and not result['iterations_missing'] else 1)


def print_table(result: dict) -> None:
    """Print a line for each kill, then the comparison."""
    print('| kill | iteration | resumed from | iterations lost | being written |')
    print('|---|---|---|---|---|')
    for kill in result['kills']:
        cells = [kill['number'], kill['reached'], kill['resumed'], kill['lost']]
        print('| ' + ' | '.join(map(str, [*cells, ', '.join(kill['writing'])])) + ' |')
    print(
        f'\n{result["machine"]}, torch {result["torch"]}, {result["seconds"]} s: '
        f'{len(result["kills"])} kills in {result["iterations"]} iterations, '
        f'{result["killed_while_writing"]} while a checkpoint was being written; '
        f'at most {result["largest_loss"]} iterations lost, a checkpoint every '
        f'{result["interval"]}. {result["rows_different"]} of {result["rows_compared"]} logged '
        f'rows differ, {result["iterations_missing"]} iterations are missing; identical at the '
        'end: ' + ', '.join(f'{name} {value}' for name, value in result['identical'].items())
    )


if __name__ == '__main__':
    main()
