"""Files in COCO's format that are damaged or unusual: check_data and stock mmdet say the same."""

import contextlib
import copy
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

EXAMPLES = int(os.environ.get('EXAMPLES', 100))
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape')),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=8, val=0, size=64) / 'coco'


@pytest.fixture
def document(root):
    return json.loads((root / 'annotations/instances_train2017.json').read_text())


@pytest.fixture(autouse=True)
def quiet():
    """Enter mmdet's scope, and log nothing."""
    level = MMLogger.get_current_instance().level
    MMLogger.get_current_instance().setLevel(logging.CRITICAL)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
    MMLogger.get_current_instance().setLevel(level)


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
        return {
            kind for (where, kind), error in self.found().items() if not error and where == part
        }

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
    assert len(samples) == 8
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
    table = draw(st.sampled_from(['annotations'] * 6 + ['images', 'categories'] * 2 + [None]))
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
def test_any_damage(data, root):
    """What no error is told of runs; our own code stops with nothing but a sentence."""
    document = json.loads((root / 'annotations/instances_train2017.json').read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        damage(data.draw, document)
    files = Data(root, document)
    found = files.found()
    for part in ('train', 'val', 'test'):
        errors = {kind for (where, kind), error in found.items() if error and where == part}
        stopped = sentence(lambda part=part: check_annotations(files.cfg, [part]))
        assert '\n' not in stopped
        assert errors or not stopped
        if not errors:
            files.run(part)


def sentence(check):
    """Return what a check stops with, '' if it does not."""
    try:
        check()
    except UserError as error:
        return str(error)
    return ''


# ---- What users report


def note(**changes):
    """Change the second object."""

    def change(document):
        document['annotations'][1].update(changes)

    return change


def without(key):
    def change(document):
        del document['annotations'][1][key]

    return change


def each(table, key, function):
    """Change a value of all entries."""

    def change(document):
        for entry in document[table]:
            entry[key] = function(entry[key])

    return change


def ids(table, key, function):
    """Change the ids of images or categories, wherever they stand."""

    def change(document):
        each(table, 'id', function)(document)
        each('annotations', key, function)(document)

    return change


def images(function):
    return ids('images', 'image_id', function)


def categories(function):
    return ids('categories', 'category_id', function)


def segmentation(function):
    """Change the mask of the second object, of which the polygons and the RLE are at hand."""

    def change(document):
        entry = document['annotations'][1]
        polygons = entry['segmentation']
        rle = masks.merge(masks.frPyObjects(polygons, 64, 64))
        rle = dict(size=[64, 64], counts=rle['counts'].decode())
        entry['segmentation'] = function(polygons, rle)

    return change


def drop(key):
    def change(document):
        del document[key]

    return change


# numpy 1 makes 44 of 300 where numpy 2 raises.
WRAPS = None if np.lib.NumpyVersion(np.__version__) < '2.0.0' else False
# Of each: what is changed, and whether training and validation run.
CASES = dict(
    no_iscrowd=(without('iscrowd'), True, False),
    null_iscrowd=(note(iscrowd=None), True, False),
    huge_iscrowd=(note(iscrowd=300), None, WRAPS),
    no_area=(without('area'), False, False),
    null_area=(note(area=None), False, False),
    text_area=(note(area='100'), False, False),
    nan_area=(note(area=float('nan')), True, True),
    text_box=(each('annotations', 'bbox', lambda box: [str(v) for v in box]), False, False),
    huge_box=(note(bbox=[1, 1, 2**70, 20]), False, False),
    null_box=(note(bbox=None), False, False),
    no_id=(without('id'), False, False),
    list_id=(note(id=[1]), False, False),
    word_id=(note(id='a'), True, False),
    number_text_id=(note(id='777'), True, True),
    list_image_id=(note(image_id=[1]), False, False),
    list_category_id=(note(category_id=[1]), False, False),
    text_image_ids=(images(str), True, True),
    float_image_ids=(images(float), True, True),
    zero_image_ids=(images(lambda i: i - 1), True, True),
    mixed_image_ids=(images(lambda i: str(i) if i == 3 else i), True, False),
    text_category_ids=(categories(str), True, True),
    zero_category_ids=(categories(lambda i: i - 1), True, True),
    mixed_category_ids=(categories(lambda i: str(i) if i == 3 else i), True, False),
    float_sizes=(each('images', 'width', float), True, True),
    text_sizes=(each('images', 'width', str), False, False),
    null_sizes=(each('images', 'height', lambda _: None), False, False),
    null_name=(each('images', 'file_name', lambda _: None), False, False),
    flat_polygon=(segmentation(lambda polygons, rle: polygons[0]), False, False),
    deep_polygon=(segmentation(lambda polygons, rle: [polygons]), None, False),
    point_lists=(segmentation(lambda p, rle: [np.reshape(p[0], (-1, 2)).tolist()]), None, None),
    null_polygon=(segmentation(lambda polygons, rle: None), False, False),
    empty_polygon=(segmentation(lambda polygons, rle: []), False, False),
    text_mask=(segmentation(lambda polygons, rle: 'mask'), False, False),
    rle=(segmentation(lambda polygons, rle: rle), True, True),
    rle_in_a_list=(segmentation(lambda polygons, rle: [rle]), None, False),
    rle_of_float_size=(segmentation(lambda p, rle: dict(rle, size=[64.0, 64.0])), True, True),
    float_runs=(segmentation(lambda p, r: dict(r, counts=[100.0, 20.0, 3976.0])), True, True),
    rle_without_counts=(segmentation(lambda p, r: dict(size=[64, 64])), None, False),
    unused_category_without_box=(
        lambda document: document['annotations'].append(
            dict(document['annotations'][0], id=999, category_id=99, bbox=None)
        ),
        False,
        False,
    ),
    ignored_object=(note(ignore=1), True, True),
    no_categories=(drop('categories'), False, False),
    no_images=(drop('images'), False, False),
    dict_annotations=(
        lambda d: d.update(annotations={str(n['id']): n for n in d['annotations']}),
        False,
        False,
    ),
    null_annotations=(lambda d: d.update(annotations=None), False, False),
)


@pytest.mark.parametrize('case', CASES)
def test_training_and_validation_run_where_no_error_is_told(case, root, document):
    """None stands for what runs, but drops or garbles objects in silence, an error all the same."""
    change, *outcomes = CASES[case]
    change(document)
    data = Data(root, document)
    for part, runs in zip(('train', 'val'), outcomes, strict=True):
        assert bool(data.told(part)) == (not runs), data.found()
        if runs is not None:
            assert data.runs(part) == runs


@pytest.mark.parametrize('text', ['', '[]', '\ufeff{}', '{"images": [', '[' * 100_000, 'null'])
def test_what_is_no_json_object(text, root):
    data = Data(root, text)
    assert data.told('train') == data.told('test') == {'no annotation file of COCO'}
    assert not data.runs('train')


def test_a_polygon_of_halves_of_runs(root, document):
    """Runs of broken numbers, at which pycocotools crashes the process."""
    note(segmentation=dict(size=[64, 64], counts=[100.5, 19.5, 3976]))(document)
    assert Data(root, document).told('train') == {'RLE mask that does not decode'}


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (note(category_id='1'), ["'1' is a text", 'id 1 is a number']),
        (each('annotations', 'category_id', str), ["'1' is a text", 'id 1 is a number']),
        (each('images', 'id', str), ['1 is a number', "id '1' is a text"]),
        (note(image_id='1'), ["'1' is a text", 'id 1 is a number']),
        (note(category_id=77), ['category 77']),
    ],
)
def test_ids_of_another_kind_are_told_as_such(change, words, root, document):
    change(document)
    with pytest.raises(UserError) as error:
        check_annotations(Data(root, document).cfg, ['train'])
    assert all(word in str(error.value) for word in words)


def test_a_file_without_annotations_is_tested_with(root, document):
    """As of COCO's test-dev, whose objects others keep."""
    del document['annotations']
    data = Data(root, document)
    assert data.told('test') == set()
    assert 'no annotations' in data.remarks('test')
    assert len(data.run('test')) == 7
    assert data.told('train')
    assert data.told('val')
    (root / 'train2017/000000000001.jpg').rename(root / 'away')  # images are checked
    try:
        assert data.told('test') == {'missing image'}
    finally:
        (root / 'away').rename(root / 'train2017/000000000001.jpg')


def test_what_only_masks_need_is_no_error_of_boxes(root, document):
    segmentation(lambda polygons, rle: polygons[0])(document)
    data = Data(root, document, metric='bbox')
    for part in ('train', 'val'):
        data.cfg[f'{part}_dataloader'].dataset.pipeline[1].with_mask = False
        assert not data.told(part)
    data.cfg.val_evaluator.metric = ['bbox', 'segm']
    assert data.told('val') == {'polygon that is not within a list'}


def test_an_evaluator_with_a_file_of_its_own(root, document):
    without('iscrowd')(document)
    (root / 'annotations/other.json').write_text(json.dumps(document))
    data = Data(root, (root / 'annotations/instances_train2017.json').read_text())
    assert not data.told('val')
    data.cfg.val_evaluator.ann_file = str(root / 'annotations/other.json')
    assert data.told('val') == {'evaluated annotation without iscrowd'}
    assert not data.runs('val')


def test_scores_of_each_class_need_ids_that_are_integers(root, document):
    categories(lambda i: f'cat{i}')(document)
    assert not Data(root, document).told('val')
    data = Data(root, document, classwise=True)
    assert data.told('val') == {'category id that is no integer, evaluated with classwise'}
    assert not data.runs('val')


def test_an_id_of_0_is_counted_as_no_find(root, document):
    note(id=0)(document)
    data = Data(root, document)
    assert 'evaluated annotation with id 0' in data.remarks('val')
    assert 'evaluated annotation with id 0' not in data.remarks('train')


def test_a_class_without_objects(root, document):
    first = document['annotations'][0]
    document['annotations'] = [first]
    rows = {r['kind']: r for r in check_datasets(Data(root, document).cfg)[0].rows()}
    row = rows['class without objects']
    assert row['count'] == 5
    assert not row['error']
    assert repr(CLASSES[first['category_id'] - 1]) not in row['examples']


def test_names_that_no_terminal_prints(root, document):
    document['images'][0]['file_name'] = 'a\ud800.jpg'
    report, _ = check_datasets(Data(root, document).cfg)
    assert report.errors
    assert all(text.encode() for row in report.rows() for text in row['examples'])
