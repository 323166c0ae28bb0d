"""Train Tables 1 and 2 and the transfer check, for ``tools/reproduce.py``."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from mmvanilla.benchmark.machine import describe
from mmvanilla.benchmark.tables import describe_machine, make_console, markdown, print_table

from . import trainings, transfer


def reproduce(
    what: str, small: bool, seeds: list[int], out: Path, target: Callable[[str], Path]
) -> None:
    """Train, print the table, and write it as Markdown and JSON, Tables 1 and 2 also as PNG.

    Args:
        what: ``table1``, ``table2`` or ``transfer``.
        small: Train narrow nets on a small generated set; transfer always does.
        seeds: Seeds of the trainings.
        out: Where full trainings keep their checkpoints and results.
        target: Returns where to write a file; called before anything is trained.

    Raises:
        FileNotFoundError: If full trainings find no ImageNet.
    """
    suffixes = ('md', 'json') if what == 'transfer' else ('md', 'json', 'png')
    text, data, *pictures = (target(f'{what}{"_small" * small}.{suffix}') for suffix in suffixes)
    if not small:
        trainings.check_imagenet()
    begun = time.monotonic()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task('training', total=None)

        def on_run(run: Any, total: int) -> None:
            progress.update(task, advance=1, total=total)
            progress.console.print(str(run), highlight=False)

        if what == 'transfer':
            runs = transfer.run_transfer(seeds, on_run)
        else:
            runs = trainings.run_table(what, out, small, seeds, on_run)
    took = f'{(time.monotonic() - begun) / 60:.1f} minutes'

    if what == 'transfer':
        cells = transfer.cells(runs)
        lines = [transfer.verdict(runs), f'{took}.']
    else:
        cells = trainings.cells(runs)
        cpu = sum(run.cpu_seconds for run in runs) / 60
        lines = [
            trainings.CLAIMS[what],
            f'Fused nets; mean and standard deviation over the seeds {seeds}.',
            f'{took}; the trainings took {cpu:.1f} minutes of CPU time.',
        ]
    machine = describe()
    lines.append(describe_machine(machine))

    console = make_console()
    print_table(*cells, console)
    for line in lines:
        console.print(line, style='dim')
    text.write_text('\n\n'.join([markdown(*cells), *lines]) + '\n')
    facts = dict(command=sys.argv, machine=machine, small=small, runs=[asdict(run) for run in runs])
    data.write_text(json.dumps(facts, indent=2) + '\n')
    for picture in pictures:
        trainings.plot(runs, picture)
