"""Measuring several models side by side."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from mmengine.logging import MMLogger
from rich.console import Console

from .counting import Counts, count
from .machine import describe
from .peak_memory import peak_memory
from .processes import Conditions, Prepare, take_turns
from .settings import Settings, precision
from .subject import Candidate, Subject, describe_form
from .timing import STEADY, Times


@dataclass
class Row:
    """What was measured of a model; None, or empty, is what was not.

    Attributes:
        name: Its name.
        form: The form it was measured in, in words.
        times: Latencies of a call in ms.
        counts: Parameters and multiply-adds of one call.
        memory: Bytes at the peak, see ``peak_memory``.
        detections: Boxes that a call found; of detectors as whole models.
        reason: Why there are no times.
    """

    name: str
    form: str
    times: Times = field(default_factory=Times)
    counts: Counts | None = None
    memory: int | None = None
    detections: int | None = None
    reason: str | None = None


@dataclass
class Built:
    """What is known of a model before its turns: see ``Row``, and of its images and heads.

    Attributes:
        sizes: Shapes (C, H, W) of its images, which take turns.
        fixed: Whether the outputs of its heads are fixed.
    """

    counts: Counts | None
    memory: int | None
    detections: int | None
    sizes: list[tuple[int, ...]]
    fixed: bool


@dataclass
class Measurement:
    """The rows of a run, and what they depend on.

    Attributes:
        rows: One a model, in the order asked for.
        settings: How they were measured.
        machine: What on.
        date: When.
        trained: Whether a model had other than random weights.
        complete: Whether all rounds were run.
        notes: What a reader must know.
        warnings: What makes the figures doubtful.
    """

    rows: list[Row]
    settings: Settings
    machine: dict[str, str]
    date: str
    trained: bool = False
    complete: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fps(self, row: Row) -> float:
        """Return images a second, by the median latency."""
        return 1e3 * self.settings.batch_size / row.times.median


def measure(
    candidates: Iterable[Candidate | Row], settings: Settings, console: Console | None = None
) -> Measurement:
    """Build models, count, and time them in turn, each in a process of its own.

    A model that cannot be built or run gets the reason in its row, and the others go on. After
    ctrl-C what has been measured so far is returned.

    Args:
        candidates: The models; a row, of what could not even be read, is passed on.
        settings: How to measure.
        console: Where progress is shown; nowhere unless given.
    """
    rows, makes, trained = [], {}, False
    for i, candidate in enumerate(candidates):
        if isinstance(candidate, Candidate):
            trained = trained or bool(candidate.file)
            makes[i] = partial(build, candidate, settings)
            candidate = Row(candidate.name, describe_form(candidate))
        rows.append(candidate)
    result = Measurement(
        rows, settings, describe(settings.device), time.strftime('%Y-%m-%d'), trained
    )
    conditions = Conditions(settings.device, within=partial(precision, settings))
    run = take_turns(makes, settings.repeat, settings.warmup, conditions, console)
    result.complete, result.warnings = run.complete, run.disturbances
    for i, found in run.results.items():
        if found.failed:
            rows[i].reason = found.failed.reason
        elif found.kept:
            rows[i].counts, rows[i].memory = found.kept.counts, found.kept.memory
            if found.times:
                rows[i].times, rows[i].detections = found.times, found.kept.detections
    _judge(result, [found.kept for found in run.results.values() if found.kept])
    return result


def build(candidate: Candidate, settings: Settings) -> tuple[Prepare, Built]:
    """Build a model; count what it does and how much memory it takes."""
    MMLogger.get_current_instance().setLevel('WARNING')
    subject = Subject(candidate, settings)
    if candidate.form == 'exported':
        subject.prepare(0)()
        return subject.prepare, Built(None, None, subject.detections, subject.sizes(), False)
    with torch.autocast(torch.device(settings.device).type, enabled=False):
        counts = count(subject.model, subject.forward)
    subject.to_device()
    subject.prepare(0)()  # what is set up at the first call does not count as memory
    memory = peak_memory(subject.model, subject.prepare(0), torch.device(settings.device))
    return subject.prepare, Built(
        counts, memory, subject.detections, subject.sizes(), subject.fixed
    )


def _judge(result: Measurement, models: list[Built]) -> None:
    """Add the notes and warnings that the figures ask for."""
    settings, notes, warnings = result.settings, result.notes, result.warnings
    if settings.padded != tuple(settings.shape) and not settings.images:
        notes.append(
            f'images of {settings.shape[0]} x {settings.shape[1]} are padded to '
            f'{settings.padded[0]} x {settings.padded[1]}, multiples of the stride'
        )
    if not result.complete:
        rounds = min((len(row.times.values) for row in result.rows if row.times), default=0)
        warnings.append(f'interrupted after {rounds} of {settings.repeat} rounds')
    images = max((len(model.sizes) for model in models), default=1)
    comparable = images == 1 or (result.complete and settings.repeat % (2 * images) == 0)
    if not comparable:
        notes.append(
            f'the halves of the run had other images, so they do not tell how steady it was; '
            f'--repeat {2 * images} would'
        )
    for row in result.rows:
        if row.times and not row.times.steady and comparable:
            spread = row.times.spread
            warnings.append(
                f'{row.name} ({row.form}): the halves of the run differ by {spread:.0%} in median, '
                f'more than {STEADY:.0%}; repeat on an idle machine'
                if spread == spread
                else f'{row.name} ({row.form}): one round does not tell how steady it is'
            )
    found = {row.detections for row in result.rows if row.detections is not None}
    if len(found) > 1 and not result.trained:
        warnings.append(
            f'the models found {", ".join(map(str, sorted(found)))} boxes: their heads are of a '
            'kind whose outputs are not fixed, and their times depend on random weights'
        )
    elif found and any(model.fixed for model in models):
        notes.append(
            'what the heads return is replaced by fixed scores, the same for every backbone, since '
            'the number of boxes found by random weights decides the time; each model computes '
            f'all, and ends with {max(found)} boxes'
        )
    new = set().union(*(new_sizes(model.sizes, settings) for model in models))
    if new and (settings.compile or torch.backends.cudnn.benchmark):
        culprit = 'torch.compile compiles' if settings.compile else 'cudnn picks algorithms'
        warnings.append(
            f'{len(new)} image sizes come first in a timed round, where {culprit} for them; '
            'raise --warmup to the number of images'
        )


def new_sizes(sizes: list[tuple[int, ...]], settings: Settings) -> set[tuple[int, ...]]:
    """Return the sizes of image that are not met before the rounds that count."""
    warm = {sizes[turn % len(sizes)] for turn in range(-settings.warmup, 0)}
    # The first is run while building.
    return {sizes[turn % len(sizes)] for turn in range(settings.repeat)} - warm - {sizes[0]}
