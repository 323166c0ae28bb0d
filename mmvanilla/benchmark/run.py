"""Measure models side by side."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich.console import Console

from .counting import Counts, count
from .model import ModelSpec, ModelUnderTest, describe_form
from .peak_memory import peak_memory
from .processes import Conditions, Prepare, take_turns
from .results import Measurement, Row
from .settings import Settings, precision
from .timing import STEADY


def measure(
    models: Iterable[ModelSpec | Row],
    settings: Settings,
    console: Console | None = None,
    counter: Callable[..., Counts] = count,
) -> Measurement:
    """Build, count and time models in turn, in separate processes.

    A model that cannot be built or run gets the reason in its row. Ctrl-C ends the run early.

    Args:
        models: The models to measure. A row for a model that failed to load is copied to the
            result.
        settings: How to measure.
        console: Where to show progress.
        counter: Counts the operations, as ``count``.
    """
    models = list(models)
    specs = {i: model for i, model in enumerate(models) if isinstance(model, ModelSpec)}
    builders = {i: partial(build, spec, settings, counter) for i, spec in specs.items()}
    conditions = Conditions(settings.device, context=partial(precision, settings))
    result = take_turns(builders, settings.repeat, settings.warmup, conditions, console)
    for row, spec in zip(result.rows, specs.values(), strict=True):
        row.name, row.form = spec.name, describe_form(spec, row.metadata.get('dtype'))
        row.counts, row.memory = row.metadata.get('counts'), row.metadata.get('memory')
        if row.times:
            row.detections = row.metadata['detections']
    result.settings = settings
    result.trained = any(spec.file for spec in specs.values())
    measured = iter(result.rows)
    result.rows = [model if isinstance(model, Row) else next(measured) for model in models]
    add_remarks(result)
    return result


def build(
    spec: ModelSpec, settings: Settings, counter: Callable[..., Counts]
) -> tuple[Prepare, dict[str, Any]]:
    """Build a model, count its operations and measure its memory."""
    MMLogger.get_current_instance().setLevel('WARNING')
    model, counts, memory = ModelUnderTest(spec, settings), None, None
    if spec.form == 'exported':
        model.prepare(0)()
    else:
        with torch.autocast(torch.device(settings.device).type, enabled=False):
            counts = counter(model.model, model.forward)
        model.to_device()
        model.prepare(0)()  # the first call allocates memory that later ones reuse
        memory = peak_memory(model.model, model.prepare(0), torch.device(settings.device))
    return model.prepare, dict(
        counts=counts,
        memory=memory,
        detections=model.detections,
        sizes=model.sizes(),
        fixed=model.fixed,
        dtype=model.dtype,
    )


def add_remarks(result: Measurement) -> None:
    """Add notes and warnings about the figures."""
    settings, notes, warnings = result.settings, result.notes, result.warnings
    built = [row.metadata for row in result.rows if row.metadata]
    if settings.padded != tuple(settings.shape) and not settings.images:
        notes.append(
            f'images of {settings.shape[0]} x {settings.shape[1]} are padded to '
            f'{settings.padded[0]} x {settings.padded[1]}, multiples of the stride'
        )
    if not result.complete:
        rounds = min((len(row.times.values) for row in result.rows if row.times), default=0)
        warnings.append(f'interrupted after {rounds} of {settings.repeat} rounds')
    images = max((len(metadata['sizes']) for metadata in built), default=1)
    if images == 1 or (result.complete and settings.repeat % (2 * images) == 0):
        warnings += filter(None, map(describe_spread, result.rows))
    else:
        notes.append(
            'the halves of the run had different images and cannot be compared; '
            f'use --repeat {2 * images}'
        )
    boxes = {row.detections for row in result.rows if row.detections is not None}
    if len(boxes) > 1 and not result.trained:
        warnings.append(
            f'the models found {", ".join(map(str, sorted(boxes)))} boxes, so their times depend '
            'on random weights; the outputs of their heads cannot be fixed'
        )
    elif boxes and any(metadata['fixed'] for metadata in built):
        notes.append(
            'fixed scores replace the outputs of the heads, since random weights would decide the '
            f'number of boxes and with it the time; each model ends with {max(boxes)} boxes'
        )
    new = set().union(*(new_sizes(metadata['sizes'], settings) for metadata in built))
    if new and (settings.compile or torch.backends.cudnn.benchmark):
        cause = 'torch.compile compiles' if settings.compile else 'cudnn picks algorithms'
        warnings.append(
            f'{len(new)} image sizes first occur in a timed round, where {cause} for them; '
            'raise --warmup to the number of images'
        )


def describe_spread(row: Row) -> str | None:
    """Describe how much the halves of a run differ; None if its times are steady."""
    if not row.times or row.times.steady:
        return None
    if len(row.times.values) == 1:
        return f'{row.name} ({row.form}): one round does not show how steady the times are'
    return (
        f'{row.name} ({row.form}): the halves of the run differ by {row.times.spread:.0%} in '
        f'median, more than {STEADY:.0%}; repeat on an idle machine'
    )


def new_sizes(sizes: list[tuple[int, ...]], settings: Settings) -> set[tuple[int, ...]]:
    """Return the image sizes that first occur in a timed round."""
    known = {sizes[turn % len(sizes)] for turn in range(-settings.warmup, 0)}
    known.add(sizes[0])  # run while building
    return {sizes[turn % len(sizes)] for turn in range(settings.repeat)} - known
