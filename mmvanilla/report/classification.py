"""Figures of a classifier."""

import numpy as np
import torch
from mmengine.structures import BaseDataElement

from .evaluation import Bins, Evaluation, Wrong


def record(sample: dict) -> dict:
    """Return what is kept of one image: its label and the scores (C,)."""
    return dict(
        path=sample.get('img_path', ''),
        label=int(sample['gt_label'].item()),
        scores=sample['pred_score'].float().cpu().numpy(),
    )


def evaluate(records: list[dict], result: Evaluation, score_thr: float) -> None:
    """Fill in the figures; ``score_thr`` is for detectors."""
    labels = np.array([each['label'] for each in records])
    scores = np.array([each['scores'] for each in records])
    predicted, number = scores.argmax(1), len(result.classes)
    counts = np.bincount(number * labels + predicted, minlength=number**2).reshape(number, number)
    right, true, found = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        table = dict(precision=right / found, recall=right / true, F1=2 * right / (true + found))
    result.table = {'images': true.tolist()}
    result.table |= {name: values.tolist() for name, values in table.items()}
    rank = (scores > scores[np.arange(len(labels)), labels][:, None]).sum(1)
    result.summary['top-1'] = float((predicted == labels).mean())
    if number > 5:
        result.summary['top-5'] = float((rank < 5).mean())
    result.summary['mean F1'] = float(np.nanmean(table['F1']))
    result.confusion = counts
    result.bins = Bins.of(scores.max(1), predicted == labels)
    wrong = np.flatnonzero(predicted != labels)
    names = result.classes
    result.keep_worst(
        [
            Wrong(
                records[i]['path'],
                f'{names[labels[i]]} taken for {names[predicted[i]]}',
                float(scores[i].max()),
                _sample(records[i]),
            )
            for i in wrong
        ]
    )


def _sample(each: dict) -> BaseDataElement:
    sample = BaseDataElement()
    sample.gt_label = torch.tensor([each['label']])
    sample.pred_score = torch.from_numpy(each['scores'])
    return sample
