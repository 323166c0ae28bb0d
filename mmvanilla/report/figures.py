"""Figures of a report, by matplotlib, as PNG."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .evaluation import BINS, Bins, Curve

MOST = 12  # classes with a line of their own; the best and the worst
MOST_NAMES = 40  # classes with a name at the confusion matrix
MOST_NUMBERS = 15  # classes with numbers in the confusion matrix
AXES = dict(Precision=('recall', 'precision'), F1=('score threshold', 'F1'))  # by the first word


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=100)
    return file.getvalue()


def _axes(title: str, width: float = 5.4, height: float = 3.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout='constrained')
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    return figure, axes


def draw_curves(title: str, curves: list[Curve]) -> bytes:
    """Draw curves; the mean is black, and of many classes the best and the worst are shown."""
    figure, axes = _axes(title)
    *classes, mean = curves
    order = sorted(classes, key=lambda curve: -float(curve.y.mean()))
    shown = order if len(order) <= MOST else [*order[: MOST // 2], *order[-MOST // 2 :]]
    for curve in order:
        named = any(curve is each for each in shown)
        style: dict = dict(color='0.9', linewidth=0.6)
        if named:
            style = dict(label=curve.name, linewidth=1.2)
        axes.plot(curve.x, curve.y, zorder=2 if named else 1, **style)
    axes.plot(mean.x, mean.y, color='black', linewidth=2, label=mean.name, zorder=3)
    x, y = AXES[title.split()[0]]
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
    return png(figure)


def draw_confusion(counts: np.ndarray, names: tuple[str, ...]) -> bytes:
    """Draw a confusion matrix, in shares of its rows."""
    with np.errstate(invalid='ignore', divide='ignore'):
        shares = np.nan_to_num(counts / counts.sum(1, keepdims=True))
    side = min(12.0, 3.5 + 0.28 * len(names))
    figure, axes = _axes('True classes (rows) and predicted ones (columns)', side + 0.8, side)
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, label='share of the row', shrink=0.8)
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    if len(names) <= MOST_NUMBERS:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            color = 'white' if share > 0.5 else 'black'
            axes.text(
                column, row, f'{share:.0%}', ha='center', va='center', fontsize=7, color=color
            )
    return png(figure)


def draw_calibration(bins: Bins) -> bytes:
    """Draw how often predictions are right, by score, and how many there are."""
    figure = Figure(figsize=(5.0, 3.8), layout='constrained')
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    upper.set_title(f'Calibration: the mean gap is {bins.error:.3f}', fontsize=10)
    middles = (np.arange(BINS) + 0.5) / BINS
    filled = bins.total > 0
    upper.plot([0, 1], [0, 1], color='0.6', linestyle='--', linewidth=1)
    right = bins.right[filled] / bins.total[filled]
    upper.bar(middles[filled], right, 0.9 / BINS, color='tab:blue')
    upper.set(ylabel='share that is right', ylim=(0, 1))
    lower.bar(middles, np.maximum(bins.total, 0), 0.9 / BINS, color='0.6')
    lower.set(xlabel='score', ylabel='number', xlim=(0, 1), yscale='symlog')
    lower.set_yticks([0, 10 ** int(np.log10(max(bins.total.max(), 10)))])
    return png(figure)
