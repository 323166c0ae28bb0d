"""The figures of a report are those of pycocotools, mmseg and scikit-learn."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmseg.evaluation import IoUMetric
from pycocotools import mask as coco_mask

from mmvanilla.datasets import CLASSES, METAINFO_DET, make_shapes
from mmvanilla.report import Evaluation, ReportMetric, write_page
from mmvanilla.report.evaluation import Bins
from mmvanilla.report.page import enlarge


@pytest.fixture
def sk():
    return pytest.importorskip('sklearn.metrics')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('scenes') / 'shapes', train=1, val=12, size=96)


def shaken(dataset, rng):
    """Return made-up predictions: shifted objects, some lost, some of another class or added."""
    samples = []
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        boxes, scores, labels, masks = [], [], [], []
        for item in info['instances']:
            if rng.random() < 0.2:
                continue
            box = np.array(item['bbox']) + rng.normal(0, 2, 4)
            outline = [np.array(points) + rng.normal(0, 1.5) for points in item['mask']]
            encoded = coco_mask.merge(coco_mask.frPyObjects([list(p) for p in outline], 96, 96))
            label = item['bbox_label'] if rng.random() < 0.8 else rng.integers(6)
            for value, values in ((box, boxes), (rng.random(), scores), (label, labels)):
                values.append(value)
            masks.append(coco_mask.decode(encoded))
        boxes.append([5, 5, 30, 40])
        scores.append(rng.random())
        labels.append(rng.integers(6))
        masks.append(np.zeros((96, 96), np.uint8))
        found = dict(
            bboxes=torch.tensor(np.array(boxes), dtype=torch.float64),
            scores=torch.tensor(np.array(scores)),
            labels=torch.tensor(np.array(labels)),
            masks=torch.tensor(np.array(masks)).bool(),
        )
        samples.append(
            dict(
                img_id=info['img_id'],
                img_path=info['img_path'],
                ori_shape=(96, 96),
                pred_instances=found,
            )
        )
    return samples


@pytest.fixture
def dataset(scenes):
    return CocoDataset(
        data_root=str(scenes / 'coco'),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        metainfo=METAINFO_DET,
        pipeline=[],
        test_mode=True,
    )


def evaluated(dataset, samples):
    report = ReportMetric('model.pth', dataset)
    report.dataset_meta = dataset.metainfo
    report.process(None, samples)
    report.evaluate(len(samples))
    return report.evaluation


@pytest.fixture
def detected(dataset):
    samples = shaken(dataset, np.random.default_rng(0))
    return dataset, samples, evaluated(dataset, samples)


def test_a_model_that_detects_nothing(dataset, tmp_path):
    """No threshold, calibration or curve is made up."""
    samples = shaken(dataset, np.random.default_rng(0))
    for sample in samples:
        sample['pred_instances'] = {k: v[:0] for k, v in sample['pred_instances'].items()}
    found = evaluated(dataset, samples)
    assert found.bins is None
    assert found.summary['highest score'] == found.summary['box AP'] == 0
    assert np.isnan(found.summary['score threshold of the best F1'])
    assert found.summary['missed objects'] == sum(found.table['objects'])
    write_page(str(tmp_path), [found], 'A title', [])
    assert '<h2>Calibration</h2>' not in (tmp_path / 'index.html').read_text()


def test_detection_equals_mmdets_metric(detected, scenes):
    dataset, samples, found = detected
    file = str(scenes / 'coco/annotations/instances_val2017.json')
    metric = CocoMetric(ann_file=file, metric=['bbox', 'segm'], classwise=True)
    metric.dataset_meta = dataset.metainfo
    metric.process({}, samples)
    expected = metric.evaluate(len(samples))
    for ours, theirs in (('box', 'bbox'), ('mask', 'segm')):
        for name, suffix in {'AP': '', 'AP50': '_50', 'AP75': '_75', 'AP small': '_s'}.items():
            value = expected[f'coco/{theirs}_mAP{suffix}']
            assert found.summary[f'{ours} {name}'] == pytest.approx(value, abs=6e-4), name
        for name, value in zip(CLASSES, found.table[f'{ours} AP'], strict=True):
            key = f'coco/{name}_precision'
            if ours == 'mask' and key in expected:  # the last kind overwrites the first
                assert value == pytest.approx(expected[key], abs=6e-4)
    assert 0.2 < found.summary['box AP50'] < 0.9


def iou(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    areas = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return shared / (sum(areas) - shared)


def test_errors_of_each_image_by_brute_force(detected):
    """Greedy matches by score within a class, at IoU 0.5, scores from 0.3."""
    dataset, samples, found = detected
    errors = {}
    for i, sample in enumerate(samples):
        truth = dataset.get_data_info(i)['instances']
        free = list(range(len(truth)))
        p = sample['pred_instances']
        false = 0
        for k in p['scores'].argsort(descending=True).tolist():
            if p['scores'][k] < 0.3:
                continue
            same = [t for t in free if truth[t]['bbox_label'] == p['labels'][k]]
            best = max(same, key=lambda t: iou(truth[t]['bbox'], p['bboxes'][k]), default=None)
            if best is not None and iou(truth[best]['bbox'], p['bboxes'][k]) >= 0.5:
                free.remove(best)
            else:
                false += 1
        errors[sample['img_path']] = (len(free), false)
    assert sum(missed for missed, _ in errors.values()) == found.summary['missed objects']
    assert sum(false for _, false in errors.values()) == found.summary['false detections']
    for wrong in found.wrong:
        missed, false = errors[wrong.path]
        assert wrong.text == f'{missed} missed, {false} false'
    assert [w.errors for w in found.wrong] == sorted((w.errors for w in found.wrong), reverse=True)


def test_true_masks_are_drawn(detected):
    """A mask fills its box to the edges."""
    for wrong in detected[2].wrong:
        truth = wrong.sample.gt_instances
        assert len(truth.masks) == len(truth.bboxes)
        for dense, box in zip(truth.masks, truth.bboxes, strict=True):
            rows, columns = np.nonzero(dense)
            edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert np.allclose(edges, box, atol=1.5)


def test_sums_of_the_confusion_matrix(detected):
    """Each object and each shown detection is counted once."""
    dataset, samples, found = detected
    objects = sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
    shown = sum(int((s['pred_instances']['scores'] > 0.3).sum()) for s in samples)
    assert found.confusion.shape == (7, 7)
    assert found.confusion[:-1].sum() == objects
    assert found.confusion[:, :-1].sum() == shown


def test_segmentation_equals_mmsegs_metric(sk):
    rng = np.random.default_rng(0)
    names = ('a', 'b', 'c', 'd')
    report, metric = ReportMetric('x', None), IoUMetric(iou_metrics=['mIoU'])
    report.dataset_meta = metric.dataset_meta = dict(classes=names)
    truths, found = [], []
    for _ in range(5):
        logits = torch.tensor(rng.normal(size=(4, 20, 30)))
        truth = torch.tensor(rng.integers(0, 3, (1, 20, 30)))
        truth[0, :3] = 255
        predicted = torch.where(torch.rand(1, 20, 30) < 0.5, truth % 255, logits.argmax(0)[None])
        sample = dict(
            pred_sem_seg=dict(data=predicted),
            gt_sem_seg=dict(data=truth),
            seg_logits=dict(data=logits),
            img_path='',
        )
        report.process(None, [sample])
        metric.process(None, [sample])
        keep = truth != 255
        truths.append(truth[keep].numpy())
        found.append(predicted[keep].numpy())
    report.evaluate(5)
    expected = metric.evaluate(5)
    result = report.evaluation
    for name in ('mIoU', 'mAcc', 'aAcc'):
        assert 100 * result.summary[name] == pytest.approx(expected[name], abs=0.006)
    matrix = sk.confusion_matrix(*map(np.concatenate, (truths, found)), labels=range(4))
    np.testing.assert_array_equal(result.confusion, matrix)
    assert np.isnan(result.table['accuracy'][3])


def test_classification_equals_scikit_learn(sk):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 200)
    scores = rng.dirichlet(np.ones(8), 200) + 0.2 * np.eye(8)[labels]
    scores /= scores.sum(1, keepdims=True)
    report = ReportMetric('x', None)
    report.dataset_meta = dict(classes=tuple('abcdefgh'))
    for label, score in zip(labels, scores, strict=True):
        sample = dict(gt_label=torch.tensor([label]), pred_score=torch.tensor(score), img_path='')
        report.process(None, [sample])
    report.evaluate(200)
    found, predicted = report.evaluation, scores.argmax(1)
    assert found.summary['top-1'] == pytest.approx(sk.accuracy_score(labels, predicted))
    top = sk.top_k_accuracy_score(labels, scores, k=5, labels=range(8))
    assert found.summary['top-5'] == pytest.approx(top)
    names = ('precision', 'recall', 'F1')
    expected = sk.precision_recall_fscore_support(labels, predicted)[:3]
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(found.table[name], values, rtol=1e-6)
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(labels, predicted))


def test_calibration_by_brute_force():
    rng = np.random.default_rng(0)
    scores, right = rng.random(500), rng.random(500) < 0.5
    gaps = 0
    for k in range(10):
        inside = (scores >= k / 10) & (scores < (k + 1) / 10)
        gaps += inside.sum() * abs(scores[inside].mean() - right[inside].mean())
    assert Bins.of(scores, right).error == pytest.approx(gaps / 500)
    assert Bins.of(np.array([1.0]), np.array([True])).total[-1] == 1


class Page(HTMLParser):
    """Collects what a page loads and its text."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.loaded += [value for name, value in attributes if name in ('src', 'href')]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_no_other_file(detected, tmp_path):
    found = detected[2]
    other = Evaluation('<b>other.pth', found.classes, summary=dict(found.summary))
    path = write_page(str(tmp_path / 'page'), [found, other], 'A title', ['100 images'])
    page = Page((tmp_path / 'page/index.html').read_text())
    assert path == str(tmp_path / 'page/index.html')
    assert page.loaded
    assert all(value.startswith('data:image/') for value in page.loaded)
    assert '<b>other' in ''.join(page.text)  # escaped
    assert {*CLASSES} <= {text.strip() for text in page.text}


def test_small_images_are_enlarged_with_their_objects():
    masks = np.zeros((1, 60, 80), bool)
    masks[0, 10:30, 20:50] = True
    objects = InstanceData(bboxes=np.array([[20.0, 10, 50, 30]]), labels=np.array([0]), masks=masks)
    regions = PixelData(data=torch.from_numpy(masks.astype(int)))
    sample = BaseDataElement()
    sample.gt_instances, sample.pred_sem_seg = objects, regions
    image, large = enlarge(np.zeros((60, 80, 3), np.uint8), sample)
    assert image.shape == (360, 480, 3)
    for dense in (large.gt_instances.masks[0], large.pred_sem_seg.data[0]):
        rows, columns = np.nonzero(np.asarray(dense))
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert large.gt_instances.bboxes[0].tolist() == list(edges) == [120, 60, 300, 180]
    assert sample.gt_instances.bboxes[0].tolist() == [20, 10, 50, 30]
    wide = np.zeros((60, 300, 3), np.uint8)
    assert all(a is b for a, b in zip(enlarge(wide, sample), (wide, sample), strict=True))


def test_classes_without_ground_truth_have_no_row(tmp_path):
    names = ('cat', 'dog', 'bird')
    found = Evaluation('m.pth', names, table=dict(objects=[3, 0, 2], AP=[0.5, float('nan'), 0.1]))
    found.confusion = np.array([[3, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    write_page(str(tmp_path), [found], 'A title', [])
    text = (tmp_path / 'index.html').read_text()
    rows = re.findall(r'<tr><td>(\w+)</td>', text)
    assert rows == ['cat', 'bird']
    assert re.search('Classes without objects: dog', text)


@pytest.mark.parametrize('kind', ['mask_rcnn', 'upernet'])
def test_a_report_of_two_forms(kind, files, run_test, tmp_path):
    _, config, checkpoint = files(kind)
    name = 'ADEChallengeData2016' if kind == 'upernet' else 'coco'
    data = make_shapes(tmp_path / 'shapes', train=1, val=2, size=96) / name
    other = tmp_path / 'other.pth'
    other.write_bytes(checkpoint.read_bytes())
    options = ('--report', tmp_path / 'page', '--against', other)
    out = run_test(config, checkpoint, data, *options)
    text = (tmp_path / 'page/index.html').read_text()
    assert 'other.pth' in text
    assert out.splitlines()[-1] == str(tmp_path / 'page/index.html')
    assert len(re.findall('data:image/jpeg', text)) in (2, 4)


def test_options(tool_error, files, tmp_path):
    _, config, checkpoint = files('upernet')
    line = tool_error('test.py', config, checkpoint, '--against', checkpoint)
    assert '--report' in line
    line = tool_error('test.py', config, checkpoint, '--report', config)
    assert 'is a file' in line
    options = ('--report', tmp_path / 'page', '--against', tmp_path / 'none.pth')
    assert 'none.pth' in tool_error('test.py', config, checkpoint, *options)
