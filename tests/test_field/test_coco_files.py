"""Files in COCO's format that are damaged or unusual: check_data and stock mmdet say the same."""

import contextlib
import copy
import gc
import io
import json
import logging
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, METRICS, DefaultScope
from pycocotools import mask as masks

from mmvanilla import UserError, make_shapes
from mmvanilla.data_checks import check_annotations, check_datasets, use_checked_loading
from mmvanilla.datasets import CLASSES

EXAMPLES = int(os.environ.get('EXAMPLES', 60))
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape')),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=0, size=64) / 'coco'


@pytest.fixture(scope='module')
def whole(root):
    return (root / 'annotations/instances_train2017.json').read_text()


@pytest.fixture
def document(whole):
    return json.loads(whole)


@pytest.fixture(autouse=True)
def quiet():
    """Enter mmdet's scope, log nothing, and let mmengine's gc.collect for each data set be quick."""
    gc.freeze()
    level = MMLogger.get_current_instance().level
    MMLogger.get_current_instance().setLevel(logging.CRITICAL)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
    MMLogger.get_current_instance().setLevel(level)
    gc.unfreeze()


class Data:
    """A file that is trained on, validated and tested with, and what comes of it."""

    def __init__(self, root, document, **scoring):
        file = root / 'annotations/damaged.json'
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        dataset = dict(
            type='CocoDataset',
            ann_file=str(file),
            data_prefix=dict(img=f'{root}/train2017/'),
            metainfo=dict(classes=CLASSES),
            pipeline=copy.deepcopy(PIPELINE),
        )
        filters = dict(filter_empty_gt=True, min_size=32)
        self.cfg = Config(
            dict(
                default_scope='mmdet',
                train_dataloader=dict(dataset=dict(dataset, filter_cfg=filters)),
                val_dataloader=dict(dataset=dict(dataset, test_mode=True)),
                test_dataloader=dict(dataset=dict(dataset, test_mode=True, indices=7)),
                val_evaluator=dict(
                    dict(type='CocoMetric', ann_file=str(file), metric=['bbox', 'segm']), **scoring
                ),
                test_evaluator=dict(
                    type='CocoMetric', format_only=True, outfile_prefix=f'{root}/out'
                ),
            )
        )

    def found(self):
        """Check; return the kinds of errors and of remarks by part."""
        rows = check_datasets(self.cfg)[0].rows()
        return {
            (part, row['kind']): row['error'] for row in rows for part in row['data'].split(', ')
        }

    def told(self, part):
        """Return what check_data names an error of a part."""
        return {kind for (where, kind), error in self.found().items() if error and where == part}

    def remarks(self, part):
        """Return what check_data remarks on."""
        return {kind for (where, kind), error in self.found().items() if not error and where == part}

    def run(self, part, checked=True):
        """Load all samples as a training would, and validate with predictions and without."""
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = DATASETS.build(copy.deepcopy(self.cfg[f'{part}_dataloader'].dataset))
            if checked:
                assert use_checked_loading(dataset) == 1
            samples = [dataset[i]['data_samples'] for i in range(len(dataset))]
            if part == 'val':
                for amount in (None, 0):
                    self.score(dataset, samples, amount)
        return samples

    def score(self, dataset, samples, amount):
        metric = METRICS.build(self.cfg.val_evaluator)
        metric.iou_thrs = np.array([0.5, 0.75])  # fewer than usual, for speed
        metric.dataset_meta = dataset.metainfo
        metric.process({}, [predictions(sample, amount) for sample in samples])
        return metric.compute_metrics(metric.results)

    def runs(self, part):
        """Tell whether stock mmdet gets through."""
        try:
            self.run(part, checked=False)
        except Exception:
            return False
        return True


def predictions(sample, amount):
    """The objects of a sample, as if a detector had found them."""
    objects = sample.gt_instances
    found = dict(
        bboxes=objects.bboxes.tensor,
        scores=torch.linspace(1, 0.5, len(objects)),
        labels=objects.labels,
        masks=torch.from_numpy(objects.masks.masks > 0),
    )
    found = {name: value[:amount] for name, value in found.items()}
    return dict(img_id=sample.img_id, ori_shape=sample.ori_shape, pred_instances=found)


def test_a_whole_file(root, document):
    data = Data(root, document)
    assert not any(data.found().values())
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = DATASETS.build(data.cfg.val_dataloader.dataset)
    samples = data.run('val')
    assert len(samples) == 12
    with contextlib.redirect_stdout(io.StringIO()):
        scores = data.score(dataset, samples, None)
    assert scores['bbox_mAP'] == scores['segm_mAP'] == 1


# ---- Any damage


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63, 2**70, -(2**40), 10**400]),
    st.floats(-5, 80, width=16),
    st.sampled_from([float('nan'), float('inf'), 1e30, 1e300, -1e9, 64.0, 1e7]),
    st.sampled_from(['', '0', '1', '7', '64', 'a', 'circle', 'Circle', 'nan', 'abcdef', '\ud800']),
    st.sampled_from([[], [[]], {}, [0], [[1, 1, 9, 1, 9, 9]], [1, 1, 9, 1, 9, 9], [{}], {'a': 1}]),
    st.sampled_from(
        [
            dict(size=[64, 64], counts=[100, 20, 3976]),
            dict(size=[64.0, 64.0], counts=[100.0, 20, 3976]),
            dict(size=[64, 64], counts=[100.5, 19.5, 3976]),
            dict(size=[64, 64], counts=[4096, 1]),
            dict(size=[32, 128], counts=[4096]),
            dict(size=[64, 64], counts='T3d0Xl3'),
            dict(size=[64, 64], counts='T3d0'),
            dict(size=[64, 64]),
            dict(counts=[4096]),
            [dict(size=[64, 64], counts=[100, 20, 3976])],
        ]
    ),
)
KEYS = dict(
    images=['id', 'file_name', 'width', 'height'],
    categories=['id', 'name'],
    annotations=['id', 'image_id', 'category_id', 'area', 'bbox', 'iscrowd', 'segmentation'],
)


def other_kind(value):
    """The same value as a text, a float or an int."""
    if isinstance(value, list):
        return [other_kind(item) for item in value]
    if isinstance(value, dict):
        return list(value.values())
    return float(value) if type(value) is int else str(value)


CHANGES = dict(
    wrap=lambda value: [value],
    unwrap=lambda value: value[0] if isinstance(value, list) and value else value,
    kind=other_kind,
    text=lambda value: [str(v) for v in value] if isinstance(value, list) else str(value),
    negate=lambda value: -value if isinstance(value, (int, float)) else value,
    shift=lambda value: value + 1 if isinstance(value, (int, float)) else value,
    double=lambda value: value * 2 if isinstance(value, (str, list)) else value,
    shorten=lambda value: value[:-1] if isinstance(value, (str, list)) else value,
)


def damage(draw, document):
    """Do one thing to a file."""
    table = draw(st.sampled_from([*KEYS, *KEYS, 'annotations', 'annotations', None]))
    if table is None:
        entry, key = document, draw(st.sampled_from([*KEYS]))
    elif not isinstance(document.get(table), list) or not document[table]:
        return
    elif draw(st.integers(0, 9)) == 0:  # entries of their own
        entry, key = document[table], draw(st.integers(0, len(document[table]) - 1))
    elif draw(st.integers(0, 4)) == 0:  # the same in all entries
        key = draw(st.sampled_from([*KEYS[table], 'ignore']))
        change = CHANGES[draw(st.sampled_from([*CHANGES]))]
        for entry in document[table]:
            if isinstance(entry, dict) and key in entry:
                entry[key] = change(entry[key])
        return
    else:
        entry = draw(st.sampled_from(document[table]))
        key = draw(st.sampled_from([*KEYS[table], *KEYS[table], 'ignore']))
        if not isinstance(entry, dict):
            return
        inner = entry.get(key)
        while isinstance(inner, (list, dict)) and inner and draw(st.booleans()):
            entry = inner
            keys = range(len(inner)) if isinstance(inner, list) else sorted(inner)
            key = draw(st.sampled_from([*keys]))
            inner = inner[key]
    what = draw(st.sampled_from(['delete', 'copy', 'value', 'value', *CHANGES]))
    there = isinstance(entry, list) or key in entry
    if what == 'value' or not there:
        entry[key] = draw(VALUES)
    elif what == 'delete':
        del entry[key]
    elif what == 'copy' and isinstance(entry, list):
        entry.append(copy.deepcopy(entry[key]))
    elif what in CHANGES:
        entry[key] = CHANGES[what](entry[key])


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize='EXAMPLES' not in os.environ,
    suppress_health_check=[*HealthCheck],
    print_blob=False,
)
@given(data=st.data())
def test_any_damage(data, root, whole):
    """What no error is told of runs; our own code stops with nothing but a sentence."""
    document = json.loads(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damage(data.draw, document)
    files = Data(root, document)
    found = files.found()
    for part in ('train', 'val', 'test'):
        errors = {kind for (where, kind), error in found.items() if error and where == part}
        try:
            check_annotations(files.cfg, [part])
        except UserError as error:
            assert errors
            assert '\n' not in str(error)
        if not errors:
            files.run(part)
