"""What was measured, as text, Markdown, JSON and pictures."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use('agg')
import matplotlib.pyplot as plt
from rich import box
from rich.console import Console
from rich.table import Table

from .run import Measurement, Row
from .timing import Times

Cells = list[list[str]]


def markdown(header: list[str], rows: Cells) -> str:
    """Return a table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def print_table(header: list[str], rows: Cells, console: Console) -> None:
    """Print a table."""
    table = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        table.add_column(name, justify='left' if i == 0 else 'right', no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def make_console() -> Console:
    """Return a console on stdout for tables as wide as they are, which files do not cut."""
    return Console(width=1000, soft_wrap=True, highlight=False, markup=False)


def print_warnings(result: Measurement) -> None:
    """Print on stderr what makes the figures doubtful."""
    for warning in result.warnings:
        print(f'warning: {warning}', file=sys.stderr)


def speed_cells(result: Measurement) -> tuple[list[str], Cells]:
    """Return header and rows of the table of speeds; a row without times ends with the reason."""
    header = ['model', 'form', 'FPS', 'median ms', 'p10', 'p90', 'time / first']
    header += ['memory MiB', 'params M', 'dense G', 'depthwise G']
    with_boxes = any(row.detections is not None for row in result.rows)
    header += ['boxes'] if with_boxes else []
    first = result.rows[0].times if result.rows else None
    rows = []
    for row in result.rows:
        cells = [row.name, row.form]
        if row.times:
            times = row.times
            cells += [number(result.fps(row)), *map(number, (times.median, times.p10, times.p90))]
            cells.append(describe_ratio(row, first))
        else:
            cells += [row.reason or 'interrupted', *['-'] * 4]
        cells.append(number(row.memory / 2**20, 0) if row.memory else '-')
        cells += count_cells(row)
        cells += [str(row.detections) if row.detections is not None else '-'] if with_boxes else []
        rows.append(cells)
    return header, rows


def count_cells(row: Row) -> list[str]:
    """Return params in M, and dense and depthwise multiply-adds in G."""
    if not row.counts:
        return ['-'] * 3
    counts = row.counts
    return [
        f'{counts.params / 1e6:.2f}',
        f'{counts.dense / 1e9:.2f}',
        f'{counts.depthwise / 1e9:.2f}',
    ]


def describe_ratio(row: Row, first: Times | None) -> str:
    """Return the median of a row's time over the first row's, with the 10th and 90th percentile."""
    if not first:
        return '-'
    ratio = row.times.ratio(first)
    return f'{ratio.median:.2f} ({ratio.p10:.2f}-{ratio.p90:.2f})'


def number(value: float, digits: int | None = None) -> str:
    """Return a number with three digits that count, or so many after the point."""
    if digits is None:
        digits = 1 if value >= 100 else 2 if value >= 10 else 3
    return f'{value:.{digits}f}'


def footer(result: Measurement) -> list[str]:
    """Return the lines below a table: notes, settings, machine; warnings come separately."""
    lines = [f'Note: {note}' for note in result.notes]
    weights = 'Weights as in the files' if result.trained else 'Random weights'
    lines.append(f'{weights}. {result.date}, {result.settings.describe()}')
    lines.append(', '.join(f'{name} {value}' for name, value in result.machine.items()))
    return lines


def to_json(result: Measurement, **others: Any) -> str:
    """Return all that was measured as JSON; latencies in ms, in the order of the rounds."""
    rows = []
    for row in result.rows:
        values = asdict(row)
        values['times_ms'] = values.pop('times')['values'] if row.times else None
        if row.times:
            values.update(
                fps=result.fps(row),
                median_ms=row.times.median,
                p10_ms=row.times.p10,
                p90_ms=row.times.p90,
                spread=row.times.spread if len(row.times.values) > 1 else None,
            )
        rows.append(values)
    facts = dict(
        date=result.date,
        complete=result.complete,
        settings=asdict(result.settings),
        machine=result.machine,
        notes=result.notes,
        warnings=result.warnings,
        rows=rows,
    )
    return json.dumps({**facts, **others}, indent=2) + '\n'


def plot_speed(
    result: Measurement, file: str | Path, published: dict[str, float] | None = None
) -> None:
    """Draw FPS as bars, from the 90th to the 10th percentile of latency as whiskers.

    Args:
        result: What was measured.
        file: The PNG file to write.
        published: FPS by the name of a row, drawn beside.
    """
    rows = [row for row in result.rows if row.times]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.5 * max(len(rows), 1)), layout='constrained')
    scale = 1e3 * result.settings.batch_size
    height = 0.4 if published else 0.7
    for position, row in enumerate(rows):
        fps, times = result.fps(row), row.times
        low, high = max(fps - scale / times.p90, 0), max(scale / times.p10 - fps, 0)
        color = 'tab:orange' if 'VanillaNet' in row.name or 'vanillanet' in row.name else 'tab:blue'
        axes.barh(position, fps, height, xerr=[[low], [high]], color=color, ecolor='0.3', capsize=2)
        axes.annotate(f' {number(fps)}', (fps + high, position), va='center', fontsize=8)
    axes.set_yticks(range(len(rows)), [f'{row.name}\n{row.form}' for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f'images a second\n{result.settings.describe()}', fontsize=8)
    if published:
        twin = axes.twiny()
        for position, row in enumerate(rows):
            if row.name in published:
                twin.barh(position + height, published[row.name], height * 0.7, color='0.8')
        twin.set_xlabel('published, images a second on an A100 (grey)', fontsize=8)
        twin.set_xlim(left=0)
    figure.savefig(file, dpi=120)
    plt.close(figure)
