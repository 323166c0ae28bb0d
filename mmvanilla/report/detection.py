"""Figures of a detector, by pycocotools and supervision."""

import contextlib
import io
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

from .evaluation import WORST, Bins, Curve, Evaluation, Wrong

LIMIT = 100  # detections of an image that count, as in COCO's AP
SUMMARY = {'AP': 0, 'AP50': 1, 'AP75': 2, 'AP small': 3, 'AP medium': 4, 'AP large': 5}
PRECISION, F1 = 'Precision and recall at IoU 0.5', 'F1 and score threshold at IoU 0.5'


def record(sample: dict, info: dict) -> dict:
    """Return what is kept of one image: prediction in COCO's form, and ground truth."""
    from pycocotools import mask

    found = sample['pred_instances']
    boxes = np.asarray(found['bboxes'].cpu(), float).reshape(-1, 4)
    kept = dict(
        path=info.get('img_path', ''),
        size=sample['ori_shape'],
        boxes=boxes,
        scores=np.asarray(found['scores'].cpu(), float),
        labels=np.asarray(found['labels'].cpu()),
        instances=info.get('instances') or [],
    )
    if 'masks' in found:
        dense = np.asarray(
            found['masks'].cpu() if hasattr(found['masks'], 'cpu') else found['masks']
        )
        kept['masks'] = [mask.encode(np.asfortranarray(each.astype(np.uint8))) for each in dense]
    return kept


def evaluate(records: list[dict], result: Evaluation, score_thr: float) -> None:
    """Fill in the figures.

    Args:
        records: Results of ``record``.
        result: The figures, changed in place.
        score_thr: Smallest score of a detection in the confusion matrix and the worst images.
    """
    kinds = ['bbox'] + ['segm'] * any('masks' in each for each in records)
    for kind in kinds:
        coco = _coco_eval(records, result.classes, kind)
        name = dict(bbox='box', segm='mask')[kind]
        result.summary |= {f'{name} {k}': _mean(coco.stats[i : i + 1]) for k, i in SUMMARY.items()}
        precision = coco.eval['precision']  # IoU, recall, class, area, detections
        result.table[f'{name} AP'] = [_mean(precision[:, :, k, 0, -1]) for k in _classes(result)]
        result.table[f'{name} AP50'] = [_mean(precision[0, :, k, 0, -1]) for k in _classes(result)]
        if kind == 'bbox':
            _add_curves(coco, result)
            scores, right = _matches(coco)
            if scores.size:
                result.bins = Bins.of(scores, right)
            _add_wrong(coco, records, result, score_thr)
    objects = np.zeros(len(result.classes), int)
    for each in records:
        labels = [item['bbox_label'] for item in each['instances'] if not item.get('ignore_flag')]
        objects += np.bincount(labels, minlength=len(objects))
    result.table = {'objects': objects.tolist(), **result.table}
    result.confusion = _confusion(records, result.classes, score_thr)


def _classes(result: Evaluation) -> range:
    return range(len(result.classes))


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that pycocotools defines; it writes -1 for the others."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float('nan')


def _coco_eval(records: list[dict], classes: tuple[str, ...], kind: str) -> Any:
    """Return a COCOeval that has run."""
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths: list[dict] = []
    found: list[dict] = []
    images = []
    for i, each in enumerate(records, 1):
        height, width = each['size'][:2]
        images.append(dict(id=i, width=int(width), height=int(height)))
        for item in each['instances']:
            left, top, right, bottom = item['bbox']
            box = [left, top, right - left, bottom - top]
            note = dict(id=len(truths) + 1, image_id=i, category_id=item['bbox_label'], bbox=box)
            outline = item.get('mask')
            area = box[2] * box[3]
            if outline:
                encoded = _encode(outline, height, width)
                note['segmentation'], area = encoded, float(mask.area(encoded))
            truths.append(dict(note, area=area, iscrowd=int(bool(item.get('ignore_flag')))))
        boxes = each['boxes'].copy()
        boxes[:, 2:] -= boxes[:, :2]
        for k, (box, score, label) in enumerate(
            zip(boxes.tolist(), each['scores'].tolist(), each['labels'].tolist(), strict=True)
        ):
            # With a box, pycocotools takes the box's area for the size of a mask.
            shape = dict(bbox=box) if kind == 'bbox' else dict(segmentation=each['masks'][k])
            found.append(dict(image_id=i, category_id=label, score=score, **shape))
    with contextlib.redirect_stdout(io.StringIO()):
        truth, predicted = COCO(), COCO()
        categories = [dict(id=i, name=name) for i, name in enumerate(classes)]
        truth.dataset = dict(images=images, annotations=truths, categories=categories)
        truth.createIndex()
        predicted.dataset = dict(images=images, annotations=[], categories=categories)
        predicted.createIndex()
        if found:
            predicted = truth.loadRes(found)
        coco = COCOeval(truth, predicted, kind)
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return coco


def _encode(outline: Any, height: int, width: int) -> dict:
    """Return a mask of an annotation, polygons or COCO's run lengths, as compressed run lengths."""
    from pycocotools import mask

    if isinstance(outline, list):
        return mask.merge(mask.frPyObjects(outline, height, width))
    uncompressed = isinstance(outline['counts'], list)
    return mask.frPyObjects(outline, height, width) if uncompressed else outline


def _add_curves(coco: Any, result: Evaluation) -> None:
    """Add precision over recall, and F1 over the score threshold."""
    recall = coco.params.recThrs
    precision, scores = (coco.eval[key][0, :, :, 0, -1] for key in ('precision', 'scores'))
    thresholds = np.linspace(0, 1, 101)
    pairs: dict[str, list[Curve]] = {PRECISION: [], F1: []}
    for k, name in enumerate(result.classes):
        if (precision[:, k] > -1).all():
            pairs[PRECISION].append(Curve(name, recall, precision[:, k]))
            with np.errstate(invalid='ignore'):
                f1 = np.nan_to_num(2 * precision[:, k] * recall / (precision[:, k] + recall))
            # Scores fall with the recall; a threshold reaches the last recall above it.
            reached = [np.flatnonzero(scores[:, k] >= t)[-1:] for t in thresholds]
            values = [f1[i[0]] if i.size else 0.0 for i in reached]
            pairs[F1].append(Curve(name, thresholds, np.array(values)))
    for title, curves in pairs.items():
        if curves:
            mean = Curve('mean', curves[0].x, np.mean([curve.y for curve in curves], axis=0))
            result.curves[title] = [*curves, mean]
    if result.curves:
        best = result.curves[F1][-1]
        result.summary['best F1'] = float(best.y.max())
        threshold = float(best.x[best.y.argmax()]) if best.y.any() else float('nan')
        result.summary['score threshold of the best F1'] = threshold


def _matches(coco: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of all detections, and whether each one is right at IoU 0.5."""
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for each in filter(None, coco.evalImgs):
        if each['aRng'] == coco.params.areaRng[0]:
            counted = ~each['dtIgnore'][0].astype(bool)
            scores.append(np.array(each['dtScores'])[counted])
            right.append(each['dtMatches'][0][counted] > 0)
    return np.concatenate(scores), np.concatenate(right)


def _add_wrong(coco: Any, records: list[dict], result: Evaluation, score_thr: float) -> None:
    """Count missed objects and false detections of each image, at IoU 0.5."""
    missed, false = np.zeros(len(records), int), np.zeros(len(records), int)
    for each in filter(None, coco.evalImgs):
        if each['aRng'] != coco.params.areaRng[0]:
            continue
        i = each['image_id'] - 1
        shown = np.array(each['dtScores']) >= score_thr
        ids = set(np.array(each['dtIds'])[shown].tolist())
        wanted = ~np.asarray(each['gtIgnore']).astype(bool)
        missed[i] += sum(int(m) not in ids for m in each['gtMatches'][0][wanted])
        wrong = (each['dtMatches'][0] == 0) & ~each['dtIgnore'][0].astype(bool)
        false[i] += int((wrong & shown).sum())
    result.summary['highest score'] = max((e['scores'].max(initial=0) for e in records), default=0)
    result.summary['missed objects'] = int(missed.sum())
    result.summary['false detections'] = int(false.sum())
    order = np.argsort(-(missed + false), kind='stable')[:WORST]
    result.keep_worst(
        [
            Wrong(
                records[i]['path'],
                f'{missed[i]} missed, {false[i]} false',
                float(missed[i] + false[i]),
                _sample(records[i]),
            )
            for i in order
        ]
    )


def _sample(each: dict) -> BaseDataElement:
    """Return ground truth and prediction of an image, for drawing."""
    from pycocotools import mask

    height, width = each['size'][:2]
    items = [item for item in each['instances'] if not item.get('ignore_flag')]
    boxes = np.array([item['bbox'] for item in items], float).reshape(-1, 4)
    labels = np.array([item['bbox_label'] for item in items], int)
    truth = InstanceData(bboxes=boxes, labels=labels)
    if items and all(item.get('mask') for item in items):
        outlines = [_encode(item['mask'], height, width) for item in items]
        truth.masks = np.stack([mask.decode(one).astype(bool) for one in outlines])
    tensors = {name: torch.from_numpy(each[name]) for name in ('boxes', 'scores', 'labels')}
    found = InstanceData(bboxes=tensors.pop('boxes'), **tensors)
    if 'masks' in each:
        masks = [mask.decode(one).astype(bool) for one in each['masks']]
        dense = np.stack(masks) if masks else np.zeros((0, height, width), bool)
        found.masks = torch.from_numpy(dense)
    sample = BaseDataElement()
    sample.gt_instances = truth
    sample.pred_instances = found
    return sample


def _confusion(records: list[dict], classes: tuple[str, ...], score_thr: float) -> np.ndarray:
    """Return counts of true classes by detected ones at IoU 0.5; the last is the background."""
    import supervision as sv

    found, truths = [], []
    for each in records:
        found.append(
            sv.Detections(each['boxes'], class_id=each['labels'], confidence=each['scores'])
        )
        items = [item for item in each['instances'] if not item.get('ignore_flag')]
        boxes = np.array([item['bbox'] for item in items], float).reshape(-1, 4)
        labels = np.array([item['bbox_label'] for item in items], int)
        truths.append(sv.Detections(boxes, class_id=labels))
    matrix = sv.ConfusionMatrix.from_detections(
        predictions=found,
        targets=truths,
        classes=list(classes),
        conf_threshold=score_thr,
        iou_threshold=0.5,
    )
    return matrix.matrix
