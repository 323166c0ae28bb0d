"""Write measurements as text, Markdown, JSON and pictures."""

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

from .results import Measurement, Row
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
    """Return a console on stdout that does not cut wide tables."""
    return Console(width=1000, soft_wrap=True, highlight=False, markup=False)


def print_lines(lines: list[str], result: Measurement, console: Console) -> None:
    """Print the lines below a table, and the warnings on stderr."""
    for line in lines:
        console.print(line, style='dim')
    for warning in result.warnings:
        print(f'warning: {warning}', file=sys.stderr)


def speed_cells(result: Measurement) -> tuple[list[str], Cells]:
    """Return header and rows of the speed table, with the reason in rows without times."""
    header = ['model', 'form', 'FPS', 'median ms', 'p10', 'p90', 'time / first']
    header += ['memory MiB', 'params M', 'dense G', 'depthwise G']
    with_boxes = any(row.detections is not None for row in result.rows)
    header += ['boxes'] if with_boxes else []
    first = result.rows[0].times if result.rows else None
    rows = []
    for row in result.rows:
        cells = [row.name, row.form]
        if row.times:
            cells += [number(result.fps(row)), *time_cells(row), describe_ratio(row, first)]
        else:
            cells += [*time_cells(row), '-', '-']
        cells.append(number(row.memory / 2**20, 0) if row.memory else '-')
        cells += count_cells(row)
        cells += [str(row.detections) if row.detections is not None else '-'] if with_boxes else []
        rows.append(cells)
    return header, rows


def time_cells(row: Row) -> list[str]:
    """Return median, 10th and 90th percentile in ms, or the reason why there are none."""
    if not row.times:
        return [row.reason or 'interrupted', '-', '-']
    return [number(value) for value in (row.times.median, row.times.p10, row.times.p90)]


def count_cells(row: Row) -> list[str]:
    """Return parameters in M, and dense and depthwise multiply-adds in G."""
    if not row.counts:
        return ['-'] * 3
    counts = row.counts
    values = (counts.params / 1e6, counts.dense / 1e9, counts.depthwise / 1e9)
    return [f'{value:.2f}' for value in values]


def describe_ratio(row: Row, first: Times | None) -> str:
    """Return a row's time over the first row's: median, 10th and 90th percentile."""
    if not first:
        return '-'
    ratio = row.times.ratio(first)
    return f'{ratio.median:.2f} ({ratio.p10:.2f}-{ratio.p90:.2f})'


def number(value: float, digits: int | None = None) -> str:
    """Return a number with so many decimals, by default about four significant digits."""
    if digits is None:
        digits = 1 if value >= 100 else 2 if value >= 10 else 3
    return f'{value:.{digits}f}'


def footer(result: Measurement) -> list[str]:
    """Return the lines below a table: notes, settings and machine."""
    lines = [f'Note: {note}' for note in result.notes]
    weights = 'Weights as in the files' if result.trained else 'Random weights'
    lines.append(f'{weights}. {result.date}, {result.settings.describe()}')
    lines.append(describe_machine(result.machine))
    return lines


def describe_machine(machine: dict[str, str]) -> str:
    """Return hardware and versions in one line."""
    return ', '.join(f'{name} {value}' for name, value in machine.items())


def to_json(result: Measurement, **others: Any) -> str:
    """Return a measurement as JSON; latencies in ms in the order of the rounds."""
    facts = dict(
        date=result.date,
        complete=result.complete,
        settings=asdict(result.settings),
        machine=result.machine,
        notes=result.notes,
        warnings=result.warnings,
        rows=[row_facts(row, result) for row in result.rows],
    )
    return json.dumps({**facts, **others}, indent=2) + '\n'


def row_facts(row: Row, result: Measurement) -> dict[str, Any]:
    """Return the values of a row in the JSON file."""
    facts: dict[str, Any] = dict(
        name=row.name,
        form=row.form,
        counts=asdict(row.counts) if row.counts else None,
        memory=row.memory,
        detections=row.detections,
        reason=row.reason,
        times_ms=row.times.values or None,
    )
    if row.times:
        facts.update(
            fps=result.fps(row),
            median_ms=row.times.median,
            p10_ms=row.times.p10,
            p90_ms=row.times.p90,
            spread=row.times.spread if len(row.times.values) > 1 else None,
        )
    return facts


def plot_speed(
    result: Measurement, file: str | Path, published: dict[str, float] | None = None
) -> None:
    """Draw FPS as bars, with the 10th to 90th percentile of latency as whiskers.

    Args:
        result: The measurement.
        file: PNG file to write.
        published: FPS by the names of rows, drawn as grey bars.
    """
    rows = [row for row in result.rows if row.times]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.5 * max(len(rows), 1)), layout='constrained')
    scale = 1e3 * result.settings.batch_size
    height = 0.4 if published else 0.7
    for position, row in enumerate(rows):
        fps, times = result.fps(row), row.times
        low, high = max(fps - scale / times.p90, 0), max(scale / times.p10 - fps, 0)
        color = 'tab:orange' if 'vanillanet' in row.name.lower() else 'tab:blue'
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
