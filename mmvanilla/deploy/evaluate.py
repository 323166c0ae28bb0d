"""The metrics of a model, trained or exported, on the validation data of its config."""

import copy
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track

from ..errors import UserError
from ..type_name import library, scope

MAIN = r'(bbox|segm)_m?AP$|(^|/)(mAP|mIoU|top1)$'  # the metrics that judge a model
PERCENT = dict(mmdet=r'(^|/)(mIoU|top1)$', mmseg=MAIN, mmpretrain=MAIN)  # by library


class NothingMeasured(UserError):
    """An evaluator that gives none of the metrics that judge a model."""


@torch.no_grad()
def evaluate(
    cfg: Config, model: BaseModel, number: int | None = None, console: Console | None = None
) -> dict[str, float]:
    """Return the main metrics of a model on the validation data, or the test data where none are.

    Images are tested one by one, as exported models take them: in a batch each is padded to the
    largest, which changes what is found.

    Args:
        cfg: The config, with ``val_dataloader`` and ``val_evaluator``.
        model: The model, in eval mode.
        number: How many of the first images; None takes all.
        console: Where progress is shown; nowhere unless given.

    Returns:
        Box and mask AP, mIoU or top-1 by the metric's own names, from 0 to 1.

    Raises:
        UserError: If the config has no such data, or no metric is one of these.
    """
    part = next((part for part in ('val', 'test') if cfg.get(f'{part}_dataloader')), None)
    if part is None or not cfg.get(f'{part}_evaluator'):
        raise UserError(
            'the accuracy of an 8-bit model is measured on the validation data, and the config has '
            'no val_dataloader with val_evaluator; add them, or give --no-check'
        )
    init_default_scope(scope(cfg))
    loader = copy.deepcopy(cfg[f'{part}_dataloader'])
    loader.batch_size = 1
    loader = quietly(Runner.build_dataloader, loader)
    dataset = loader.dataset
    number = min(number or len(dataset), len(dataset))
    with restricted(cfg[f'{part}_evaluator'], dataset, number) as metrics:
        evaluator = quietly(Evaluator, metrics)
        evaluator.dataset_meta = dataset.metainfo
        for batch in track(
            islice(loader, number),
            'validation',
            number,
            console=console,
            disable=not console,
            transient=True,
        ):
            evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        found = quietly(evaluator.evaluate, number)
    main = {name: float(value) for name, value in found.items() if re.search(MAIN, name)}
    percent = PERCENT[library(cfg)]
    main = {name: value / (100 if re.search(percent, name) else 1) for name, value in main.items()}
    if not main:
        raise NothingMeasured(
            f'{part}_evaluator gives {", ".join(found) or "nothing"}, expected box or mask AP, '
            'mIoU or top-1, by which an 8-bit model is judged'
        )
    return main


def quietly(call: Callable, *args: Any) -> Any:
    """Call without the tables that metrics print and log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with redirect_stdout(io.StringIO()):
            return call(*args)
    finally:
        logger.setLevel(level)


@contextmanager
def restricted(evaluator: Any, dataset: BaseDataset, number: int) -> Iterator[list[dict]]:
    """Yield the configs of an evaluator's metrics, for the first images of a data set only.

    COCO's metric counts every image of its annotation file, so it gets one with these images.
    """
    metrics = copy.deepcopy(list(evaluator) if isinstance(evaluator, list | tuple) else [evaluator])
    with tempfile.TemporaryDirectory() as folder:
        if number < len(dataset):
            ids = {dataset.get_data_info(i).get('img_id') for i in range(number)}
            for i, metric in enumerate(metrics):
                if (metric.get('ann_file') or '').endswith('.json'):
                    file = os.path.join(folder, f'{i}.json')
                    write_subset(metric['ann_file'], ids, file)
                    metric['ann_file'] = file
        yield metrics


def write_subset(source: str, ids: set, target: str) -> None:
    """Write the images with some ids, and their annotations, of a file in COCO's format."""
    with open(source) as file:
        content = json.load(file)
    content['images'] = [image for image in content['images'] if image['id'] in ids]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    with open(target, 'w') as file:
        json.dump(content, file)
