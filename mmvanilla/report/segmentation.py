"""Figures of a segmentor."""

import numpy as np
import torch
from mmengine.structures import BaseDataElement, PixelData

from .evaluation import WORST, Bins, Evaluation, Wrong


def record(sample: dict, number: int, ignore_index: int) -> dict:
    """Return what is kept of one image: counts of true labels by predicted ones, and scores."""
    predicted = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy()
    truth = sample['gt_sem_seg']['data'].squeeze(0).cpu().numpy()
    known = (truth != ignore_index) & (truth < number)
    pairs = number * truth[known].astype(int) + predicted[known]
    kept = dict(
        path=sample.get('img_path', ''),
        counts=np.bincount(pairs, minlength=number**2).reshape(number, number),
        labels=predicted.astype(np.uint8 if number <= 256 else np.uint16),
        truth=truth.astype(np.uint16),
    )
    logits = sample.get('seg_logits')
    if logits is not None and len(logits['data']) > 1:
        scores = torch.softmax(logits['data'].float(), 0).max(0).values.cpu().numpy()
        kept['bins'] = Bins.of(scores[known], (predicted == truth)[known])
    return kept


def evaluate(records: list[dict], result: Evaluation, score_thr: float) -> None:
    """Fill in the figures; ``score_thr`` is for detectors."""
    counts = sum((each['counts'] for each in records), np.zeros((len(result.classes),) * 2, int))
    right, true, found = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        iou, accuracy = right / (true + found - right), right / true
        precision = right / found
        f1 = 2 * right / (true + found)
    table = dict(IoU=iou, accuracy=accuracy, precision=precision, F1=f1)
    result.table = {'share of pixels': (true / max(true.sum(), 1)).tolist()}
    result.table |= {name: values.tolist() for name, values in table.items()}
    result.summary = dict(
        mIoU=float(np.nanmean(iou)),
        mAcc=float(np.nanmean(accuracy)),
        aAcc=float(right.sum() / max(true.sum(), 1)),
    )
    result.confusion = counts
    bins = [each['bins'] for each in records if 'bins' in each]
    if bins:
        result.bins = Bins(*(np.sum(values, axis=0) for values in zip(*bins, strict=True)))
    shares = [1 - np.trace(e['counts']) / max(e['counts'].sum(), 1) for e in records]
    order = np.argsort(-np.array(shares), kind='stable')[:WORST]
    worst = [(records[i], float(shares[i])) for i in order]
    result.keep_worst(
        [Wrong(e['path'], f'{share:.1%} of the pixels', share, _sample(e)) for e, share in worst]
    )


def _sample(each: dict) -> BaseDataElement:
    sample = BaseDataElement()
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(each['truth'].astype(int))[None])
    sample.pred_sem_seg = PixelData(data=torch.from_numpy(each['labels'].astype(int))[None])
    return sample
