"""Measure a trained or exported model on the validation data of its config."""

import copy
import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import islice
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track

from ..checks import compare_evaluator, report
from ..errors import UserError
from ..type_name import library, scope

MAIN = r'(bbox|segm)_m?AP$|(^|/)(mAP|mIoU|top1)$'  # the main metrics
PERCENT = dict(mmdet=r'(^|/)(mIoU|top1)$', mmseg=MAIN, mmpretrain=MAIN)  # by library


class NothingMeasured(UserError):
    """An evaluator that returns none of the main metrics."""


@torch.no_grad()
def evaluate(
    cfg: Config,
    model: BaseModel,
    number: int | None = None,
    console: Console | None = None,
    warn_only: bool = False,
) -> dict[str, float]:
    """Return the main metrics of a model on the validation data, else the test data.

    Images are tested one by one, as exported models take them: a batch pads each image to the
    largest, which changes the results.

    Args:
        cfg: The config, with ``val_dataloader`` and ``val_evaluator``.
        model: The model, in eval mode.
        number: Number of images, the first ones; None uses all.
        console: Shows the progress; None shows nothing.
        warn_only: Warn if the evaluator's annotation file is not that of the data set.

    Returns:
        Box and mask AP, mIoU or top-1 between 0 and 1, under the metric's names.

    Raises:
        UserError: If the config has no such data or metric, or the evaluator's annotation file is
            not that of the data set.
    """
    split = next((split for split in ('val', 'test') if cfg.get(f'{split}_dataloader')), None)
    if split is None or not cfg.get(f'{split}_evaluator'):
        raise UserError(
            'the config has no val_dataloader with val_evaluator; the accuracy of an 8-bit model '
            'is measured on them; add them, or give --no-check'
        )
    init_default_scope(scope(cfg))
    loader = copy.deepcopy(cfg[f'{split}_dataloader'])
    loader.batch_size = 1
    loader = without_output(Runner.build_dataloader, loader)
    dataset = loader.dataset
    report(compare_evaluator(dataset, cfg[f'{split}_evaluator']), warn_only)
    number = min(number or len(dataset), len(dataset))
    evaluator = without_output(Evaluator, copy.deepcopy(cfg[f'{split}_evaluator']))
    evaluator.dataset_meta = dataset.metainfo
    if number < len(dataset):
        ids = [dataset.get_data_info(i).get('img_id') for i in range(number)]
        for metric in evaluator.metrics:
            if hasattr(metric, 'img_ids'):  # of COCO and LVIS: else all images of a file count
                metric.img_ids = ids
    options: dict[str, Any] = dict(console=console, disable=not console, transient=True)
    for batch in track(islice(loader, number), 'validation', number, **options):
        evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
    found = without_output(evaluator.evaluate, number)
    main = {name: float(value) for name, value in found.items() if re.search(MAIN, name)}
    if not main:
        raise NothingMeasured(
            f'{split}_evaluator gives {", ".join(found) or "nothing"}, expected box or mask AP, '
            'mIoU or top-1; use such a metric, or give --no-check'
        )
    percent = PERCENT[library(cfg)]
    return {name: value / (100 if re.search(percent, name) else 1) for name, value in main.items()}


def without_output(call: Callable, *args: Any) -> Any:
    """Call a function without the tables that metrics print and log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with redirect_stdout(io.StringIO()):
            return call(*args)
    finally:
        logger.setLevel(level)
