"""Measuring several models side by side."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import UserError
from .counting import Counts, count
from .machine import Watch, describe
from .peak_memory import bounded_memory, is_out_of_memory, peak_memory
from .settings import Settings, precision
from .subject import Candidate, Subject, describe_form
from .timing import STEADY, Clock, Times, interleaved


@dataclass
class Row:
    """What was measured of a model; None is what was not.

    Attributes:
        name: Its name.
        form: The form it was measured in, in words.
        times: Latencies of a call in ms.
        counts: Parameters and multiply-adds of one call.
        memory: Bytes at the peak, see :func:`peak_memory`.
        detections: Boxes that a call found; of detectors as whole models.
        reason: Why there are no times.
    """

    name: str
    form: str
    times: Times | None = None
    counts: Counts | None = None
    memory: int | None = None
    detections: int | None = None
    reason: str | None = None


@dataclass
class Measurement:
    """The rows of a run, and what they depend on.

    Attributes:
        rows: One a model, in the order asked for.
        settings: How they were measured.
        machine: What on.
        date: When.
        complete: Whether all rounds were run.
        notes: What a reader must know.
        warnings: What makes the figures doubtful.
    """

    rows: list[Row]
    settings: Settings
    machine: dict[str, str]
    date: str
    complete: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fps(self, row: Row) -> float:
        """Return images a second, by the median latency."""
        return 1e3 * self.settings.batch_size / row.times.median


def measure(
    candidates: Iterable[Candidate | Row], settings: Settings, console: Console | None = None
) -> Measurement:
    """Build models, count, and time them in turn.

    A model that cannot be built or run gets the reason in its row, and the others go on. After
    ctrl-C what has been measured so far is returned.

    Args:
        candidates: The models; a row, of what could not even be read, is passed on.
        settings: How to measure.
        console: Where progress is shown; nowhere unless given.
    """
    candidates = list(candidates)
    rows = [
        candidate
        if isinstance(candidate, Row)
        else Row(candidate.name, describe_form(candidate.cfg, candidate.form))
        for candidate in candidates
    ]
    result = Measurement(rows, settings, describe(settings.device), time.strftime('%Y-%m-%d'))
    if settings.padded != tuple(settings.shape) and not settings.images:
        result.notes.append(
            f'images of {settings.shape[0]} x {settings.shape[1]} are padded to '
            f'{settings.padded[0]} x {settings.padded[1]}, multiples of the stride'
        )
    columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
    progress = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=console is None, transient=True
    )
    with progress, precision(settings):
        subjects: dict[int, Subject] = {}  # by the number of the row
        try:
            for i, candidate in enumerate(progress.track(candidates, description='building')):
                if isinstance(candidate, Candidate):
                    try:
                        with bounded_memory():
                            subjects[i] = _build(candidate, settings, rows[i])
                    except Exception as error:
                        _give_up(rows[i], error)
        except KeyboardInterrupt:
            result.complete = False
        if result.complete:
            _time(result, subjects, progress)
    _judge(result, subjects)
    return result


def _build(candidate: Candidate, settings: Settings, row: Row) -> Subject:
    """Build a model; count what it does and how much memory it takes."""
    subject = Subject(candidate, settings)
    with torch.autocast(torch.device(settings.device).type, enabled=False):
        row.counts = count(subject.model, subject.forward)
    subject.to_device()
    subject.prepare(0)()  # what is set up at the first call does not count as memory
    row.memory = peak_memory(subject.model, subject.prepare(0), torch.device(settings.device))
    return subject


def _give_up(row: Row, error: Exception) -> None:
    """Note in a row why it cannot be measured, and leave nothing else there."""
    row.reason = explain(error)
    row.counts = row.memory = None


def explain(error: Exception) -> str:
    """Say in one line why a model cannot be measured."""
    if isinstance(error, ModuleNotFoundError):
        return f'needs the package {str(error.name).partition(".")[0]}'
    if is_out_of_memory(error):
        return 'too little memory'
    text = ' '.join(str(error).split())
    return text if isinstance(error, UserError) else f'{type(error).__name__}: {text[:200]}'


def _time(result: Measurement, subjects: dict[int, Subject], progress: Progress) -> None:
    """Time the subjects in turn and put the times into their rows."""
    settings = result.settings
    total = len(subjects) * (settings.warmup + settings.repeat)
    task = progress.add_task('measuring', total=total)
    watch = Watch(settings.device).start()
    with bounded_memory():
        times, result.complete = interleaved(
            {i: subject.prepare for i, subject in subjects.items()},
            settings.repeat,
            settings.warmup,
            Clock(settings.device),
            lambda: progress.advance(task),
            lambda i, error: _give_up(result.rows[i], error),
        )
    result.warnings += watch.disturbances()
    for i, measured in times.items():
        if measured.values:
            result.rows[i].times = measured
            result.rows[i].detections = subjects[i].detections


def _judge(result: Measurement, subjects: dict[int, Subject]) -> None:
    """Add the notes and warnings that the figures ask for."""
    settings = result.settings
    if not result.complete:
        rounds = min((len(row.times.values) for row in result.rows if row.times), default=0)
        result.warnings.append(f'interrupted after {rounds} of {settings.repeat} rounds')
    images = max((len(subject.data) for subject in subjects.values()), default=1)
    comparable = result.complete and settings.repeat % (2 * images) == 0
    if images > 1 and not comparable:
        result.notes.append(
            f'the halves of the run had other images, so they do not tell how steady it was; '
            f'--repeat {2 * images} would'
        )
    for row in result.rows:
        if row.times and not row.times.steady and (images == 1 or comparable):
            spread = row.times.spread
            result.warnings.append(
                f'{row.name} ({row.form}): the halves of the run differ by {spread:.0%} in median, '
                f'more than {STEADY:.0%}; repeat on an idle machine'
                if spread == spread
                else f'{row.name} ({row.form}): one round does not tell how steady it is'
            )
    found = {row.detections for row in result.rows if row.detections is not None}
    if len(found) > 1:
        result.warnings.append(
            f'the models found {", ".join(map(str, sorted(found)))} boxes: their heads are of a '
            'kind whose outputs are not fixed, and their times depend on random weights'
        )
    elif found and any(subject.fixed for subject in subjects.values()):
        result.notes.append(
            'what the heads return is replaced by fixed scores, the same for every backbone, since '
            'the number of boxes found by random weights decides the time; each model computes '
            f'all, and ends with {max(found)} boxes'
        )
    new = new_shapes(subjects.values(), settings)
    if new and (settings.compile or torch.backends.cudnn.benchmark):
        culprit = 'torch.compile compiles' if settings.compile else 'cudnn picks algorithms'
        result.warnings.append(
            f'{new} image sizes come first in a timed round, where {culprit} for them; '
            'raise --warmup to the number of images'
        )


def new_shapes(subjects: Iterable[Subject], settings: Settings) -> int:
    """Return how many sizes of image are not met before the rounds that count."""
    new = set()
    for subject in subjects:
        warm = {subject.input_shape(turn) for turn in range(-settings.warmup, 1) if turn}
        warm.add(subject.input_shape(0))  # run while building
        new |= {subject.input_shape(turn) for turn in range(settings.repeat)} - warm
    return len(new)
