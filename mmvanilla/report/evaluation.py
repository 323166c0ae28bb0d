"""What a report shows of one model."""

import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

BINS = 10  # of scores, in the calibration
WORST = 20  # images that are shown


class Bins(NamedTuple):
    """Predictions by score: their number, the sum of their scores, and how many are right."""

    total: np.ndarray
    score: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, right: np.ndarray) -> 'Bins':
        """Sort N scores of 0 to 1 into bins of the same width."""
        places = np.minimum((scores * BINS).astype(int), BINS - 1).ravel()
        values = (None, scores.ravel(), right.ravel())
        return cls(*(np.bincount(places, each, BINS).astype(float) for each in values))

    @property
    def error(self) -> float:
        """Return the expected calibration error: the mean gap between score and precision."""
        return float(np.abs(self.score - self.right).sum() / max(self.total.sum(), 1))


class Curve(NamedTuple):
    """A curve of one class, or of their mean, and the line of a figure that it belongs to."""

    name: str
    x: np.ndarray
    y: np.ndarray


class Wrong(NamedTuple):
    """An image with errors.

    Attributes:
        path: The image file.
        text: The errors in words.
        errors: How wrong it is; the largest are shown.
        sample: Ground truth and prediction for ``Annotator``.
    """

    path: str
    text: str
    errors: float
    sample: Any


@dataclass
class Evaluation:
    """Figures of a model.

    Attributes:
        name: The checkpoint or exported file.
        classes: The classes in order.
        palette: Their colors, RGB; None for those of supervision.
        summary: Metrics of the whole, 0 to 1.
        table: Columns of values by class, NaN where a class has no ground truth.
        confusion: Counts (C, C) of true classes by predicted ones; a detector has one more row and
            column for the background.
        bins: Calibration of the scores; None without scores.
        curves: Curves by the title of their figure; x and y are named by ``AXES`` of the page.
        wrong: The worst images, the worst one first.
    """

    name: str
    classes: tuple[str, ...]
    palette: Any = None
    summary: dict[str, float] = field(default_factory=dict)
    table: dict[str, list[float]] = field(default_factory=dict)
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    bins: Bins | None = None
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    wrong: list[Wrong] = field(default_factory=list)

    @property
    def short(self) -> str:
        """Return the name without its folder."""
        return os.path.basename(self.name)

    def keep_worst(self, wrong: list[Wrong]) -> None:
        """Keep the images with most errors."""
        found = sorted((each for each in wrong if each.errors > 0), key=lambda each: -each.errors)
        self.wrong = found[:WORST]
