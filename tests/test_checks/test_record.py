"""Compare configs, checkpoints, data sets, evaluators and exported files."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmvanilla import UserError
from mmvanilla.checks import (
    Record,
    compare,
    compare_evaluator,
    record_of_checkpoint,
    record_of_config,
    record_of_dataset,
    record_of_exported,
    report,
)
from mmvanilla.cli import set_data_root
from mmvanilla.datasets import make_shapes

ROOT = Path(__file__).parents[2]
PURE = ('retinanet', 'upernet', 'classifier')
CONFIGS = [
    *('configs/mask_rcnn_vanillanet13_shapes.py', 'configs/upernet_vanillanet13_shapes.py'),
    *('configs/vanillanet5_imagenet.py', *(f'tests/data/pure_python/{name}.py' for name in PURE)),
]
DETECTOR = CONFIGS[0]


def refusals(first, second, door):
    return [finding.text for finding in compare(first, second, door) if finding.refuse]


def warnings(first, second, door):
    return [finding.text for finding in compare(first, second, door) if not finding.refuse]


@pytest.fixture(scope='module')
def record():
    return record_of_config(Config.fromfile(ROOT / DETECTOR))


@pytest.mark.parametrize('config', CONFIGS)
def test_a_config_agrees_with_what_it_wrote(config):
    """Its record as JSON, and the text of the config in checkpoints from before records."""
    cfg = Config.fromfile(ROOT / config)
    record = record_of_config(cfg)
    text = json.dumps(record.to_dict())
    others = [
        record_of_checkpoint(dict(meta=dict(record=json.loads(text)))),
        record_of_checkpoint(dict(meta=dict(cfg=cfg.pretty_text))),
        record_of_exported(dict(record=json.loads(text))),
    ]
    for other in others:
        assert {name.partition('.')[0] for name in other.settings} >= {'preprocessing', 'optimizer'}
        for door in ('load_from', 'resume', 'test', 'exported'):
            assert compare(other, record, door) == []
    assert len(others[0].classes or ()) == len(record.classes or ())


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (lambda names: [names[1], names[0], *names[2:]], "class 0 is 'square'"),
        (lambda names: [*names[:-1], 'moon'], "class 5 is 'moon' in .* and 'crescent' in"),
        (lambda names: ['circel', *names[1:]], "class 0 is 'circel'"),
        (lambda names: names[:-1], 'has 5 classes and the config 6'),
        (lambda names: [*names, 'more'], 'has 7 classes and the config 6'),
    ],
)
def test_classes_permuted_renamed_misspelt_or_of_another_number(change, named, record):
    other = record_of_checkpoint(dict(meta=dict(dataset_meta=dict(classes=change(record.classes)))))
    for door in ('test', 'exported', 'resume', 'data'):
        (text,) = refusals(other, record, door)
        assert re.search(named, text)
    assert not refusals(other, record, 'load_from')
    same_number = len(other.classes) == len(record.classes)
    assert len(warnings(other, record, 'load_from')) == same_number  # else a new head is expected


def test_unknown_settings_never_differ(record):
    for unknown in (Record(), record_of_checkpoint({}), record_of_exported({})):
        for door in ('load_from', 'resume', 'test', 'exported', 'evaluator', 'data'):
            found = compare(unknown, record, door)
            assert compare(record, unknown, door) == []
            # An older exported file is warned of.
            assert [each.refuse for each in found] == ([False] if door == 'exported' else [])


@pytest.mark.parametrize(
    ('setting', 'value', 'refused_at', 'warned_at'),
    [
        ('model.data_preprocessor.mean', [0, 0, 0], 'test exported', 'load_from resume'),
        ('model.data_preprocessor.bgr_to_rgb', False, 'test exported', 'load_from resume'),
        ('model.test_cfg.rcnn.score_thr', 0.3, 'exported', 'test'),
        ('model.test_cfg.rcnn.nms.iou_threshold', 0.9, 'exported', 'test'),
        ('test_dataloader.dataset.pipeline.1.scale', (320, 320), '', 'test exported'),
        ('optim_wrapper.optimizer.type', 'SGD', 'resume', ''),
        ('optim_wrapper.optimizer.lr', 1.0, '', 'resume'),
        ('optim_wrapper.optimizer.weight_decay', 1.0, '', 'resume'),
        ('optim_wrapper.accumulative_counts', 4, '', 'resume'),
        ('train_cfg.max_epochs', 100, '', 'resume'),
        ('param_scheduler.1.eta_min', 1.0, '', 'resume'),
        ('train_dataloader.batch_size', 3, '', ''),
    ],
)
def test_settings(setting, value, refused_at, warned_at, record):
    cfg = Config.fromfile(ROOT / DETECTOR)
    cfg.merge_from_dict({setting: value})
    changed = record_of_config(cfg)
    for door in ('load_from', 'resume', 'test', 'exported'):
        assert bool(refusals(record, changed, door)) == (door in refused_at.split())
        assert bool(warnings(record, changed, door)) == (door in warned_at.split())


def test_the_text_of_a_config_is_not_run(tmp_path):
    """Checkpoints from strangers hold Python."""
    text = f"""
import os
open({str(tmp_path / 'run')!r}, 'w')
model = dict(test_cfg=dict(score_thr=open({str(tmp_path / 'run')!r}, 'w'), max_per_img=-1))
train_dataloader = dict(dataset=dict(type='os.system', metainfo=dict(classes=('a', 'b'))))
"""
    record = record_of_checkpoint(dict(meta=dict(cfg=text)))
    assert record.classes == ['a', 'b']
    assert record.settings == {'test_cfg.max_per_img': -1}
    assert not (tmp_path / 'run').exists()
    for broken in ('model = dict(', '(' * 100000, 'model = {[]: 3}', '\0'):
        assert record_of_checkpoint(dict(meta=dict(cfg=broken))) == record_of_checkpoint({})


@pytest.mark.parametrize(
    'meta',
    [
        3,
        dict(record=3, cfg=3, dataset_meta=3),
        dict(record=dict(classes=3, settings=3)),
        dict(record=dict(classes=[torch.ones(2)], settings={'optimizer.lr': torch.ones(2), 3: {}})),
        dict(dataset_meta=dict(classes=[torch.ones(2)])),
    ],
)
def test_a_record_that_a_stranger_wrote_is_unknown(meta, record):
    for door in ('resume', 'test'):
        assert compare(record_of_checkpoint(dict(meta=meta)), record, door) == []


def test_classes_of_folders_and_files(tmp_path):
    """They are in no config, nor is one needed whose classes come with each image."""
    for name in ('noise', 'plain'):
        (tmp_path / 'val' / name).mkdir(parents=True)
    folders = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), data_prefix='val')
    loader = dict(dataset=dict(folders, pipeline=[]))
    cfg = Config(dict(default_scope='mmpretrain', test_dataloader=loader))
    assert record_of_config(cfg, 'test').classes == ['noise', 'plain']
    (tmp_path / 'names.txt').write_text('a\nb\n')
    listed = dict(type='CocoDataset', metainfo=dict(classes=str(tmp_path / 'names.txt')))
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=listed)))
    assert record_of_config(cfg).classes == ['a', 'b']
    cfg.train_dataloader.dataset.return_classes = True
    assert record_of_config(cfg).classes is None


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes'), train=1, val=4, size=64) / 'coco'


@pytest.fixture
def validation(shapes):
    """Return the built data set of a validation, and the file of its evaluator, read."""
    cfg = Config.fromfile(ROOT / DETECTOR)
    set_data_root(cfg, str(shapes))
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    return dataset, json.loads(Path(cfg.val_evaluator.ann_file).read_text())


def fewer_images(content):
    content['images'] = content['images'][:2]


def other_ids(content):
    for image in content['images']:
        image['id'] += 1000


def other_names(content):
    for image in content['images']:
        image['file_name'] = f'other/x{image["file_name"]}'


def other_sizes(content):
    for image in content['images']:
        image['height'], image['width'] = 2 * image['height'], image['width']


def other_categories(content):
    content['categories'][0]['name'], content['categories'][1]['name'] = 'square', 'circle'


def renamed_category(content):
    content['categories'][2]['name'] = 'Triangle'


def shifted_categories(content):
    for each in content['categories']:
        each['id'] += 1
    for each in content['annotations']:
        each['category_id'] += 1


@pytest.mark.parametrize(
    'damage',
    [
        *(fewer_images, other_ids, other_names, other_sizes),
        *(other_categories, renamed_category, shifted_categories),
    ],
)
def test_an_evaluator_with_another_annotation_file_is_refused(damage, validation, tmp_path):
    dataset, content = validation
    damage(content)
    (tmp_path / 'other.json').write_text(json.dumps(content))
    found = compare_evaluator(dataset, dict(ann_file=str(tmp_path / 'other.json')))
    assert any(finding.refuse for finding in found), found
    if damage in (fewer_images, other_ids):  # pycocotools would fail after the whole test
        with pytest.raises(UserError, match='not in the evaluator'):
            report(found, warn_only=True)
    else:
        report(found, warn_only=True)


def test_an_evaluator_with_other_objects_is_a_warning(validation, tmp_path):
    dataset, content = validation
    total = len(content['annotations'])
    metric = dict(ann_file=str(tmp_path / 'other.json'))
    Path(metric['ann_file']).write_text(json.dumps(content))
    assert compare_evaluator(dataset, [metric]) == []
    more = copy.deepcopy(content)
    more['images'].append(dict(more['images'][0], id=99, file_name='more.jpg'))
    more['annotations'].append(dict(more['annotations'][0], id=9999, image_id=99))
    Path(metric['ann_file']).write_text(json.dumps(more))
    (finding,) = compare_evaluator(dataset, metric)
    assert '1 images' in finding.text
    assert not finding.refuse
    del content['annotations'][0]
    Path(metric['ann_file']).write_text(json.dumps(content))
    (finding,) = compare_evaluator(dataset, metric)
    assert re.findall(r'\d+', finding.text) == [str(total), str(total - 1)]
    assert not finding.refuse


def test_objects_of_unused_categories_do_not_count(validation, tmp_path):
    """A detector of some of a file's classes is evaluated on these."""
    dataset, content = validation
    file = tmp_path / 'other.json'
    content['categories'].append(dict(id=77, name='unused'))
    content['annotations'].append(dict(content['annotations'][0], id=9999, category_id=77))
    file.write_text(json.dumps(content))
    assert compare_evaluator(dataset, dict(ann_file=str(file))) == []


def test_the_file_of_the_data_set_is_not_read_again(validation, shapes, monkeypatch):
    dataset, _ = validation
    monkeypatch.chdir(shapes)
    monkeypatch.setattr(json, 'load', None)
    metric = dict(ann_file='./annotations/../annotations/instances_val2017.json')
    assert compare_evaluator(dataset, metric) == []
    part = dataset.get_subset(range(2))
    (finding,) = compare_evaluator(part, metric)
    assert '2 images with objects' in finding.text
    assert not finding.refuse


def test_other_evaluators_have_no_file(validation, tmp_path):
    dataset, _ = validation
    (tmp_path / 'captions.json').write_text('[1, 2]')
    for metric in (
        dict(type='VOCMetric'),
        dict(ann_file=None),
        dict(ann_file=str(tmp_path / 'captions.json')),
        dict(ann_file=str(tmp_path / 'missing.json')),
        None,
    ):
        assert compare_evaluator(dataset, metric) == []
    assert record_of_dataset([1, 2]) == Record('the data set', settings={})


def test_several_data_sets_have_an_evaluator_each(validation, shapes):
    dataset, _ = validation
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[dataset, dataset]))
    metric = dict(ann_file=str(shapes / 'annotations/instances_val2017.json'))
    metrics = dict(type='MultiDatasetsEvaluator', metrics=[metric, metric])
    assert compare_evaluator(both, metrics) == []
    assert compare_evaluator(both, metric) == []
