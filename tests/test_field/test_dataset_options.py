"""Options of data sets as people write them: classes, paths, wrappers, configs in pure Python."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

import mmvanilla
from mmvanilla import UserError, make_shapes
from mmvanilla.data_checks import check_annotations, check_datasets, use_checked_loading
from mmvanilla.datasets import CLASSES


@pytest.fixture(autouse=True)
def scope():
    level = MMLogger.get_current_instance().level
    MMLogger.get_current_instance().setLevel(logging.CRITICAL)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
    MMLogger.get_current_instance().setLevel(level)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=4, val=2, size=64)


@pytest.fixture
def coco(root):
    """Make the config of a data set of mmdet."""

    def make(**options):
        file = str(root / 'coco/annotations/instances_train2017.json')
        dataset = dict(
            type='CocoDataset',
            ann_file=file,
            data_prefix=dict(img=f'{root}/coco/train2017/'),
            metainfo=dict(classes=CLASSES),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                dict(type='PackDetInputs'),
            ],
        )
        return train(dict(dataset, **options))

    return make


def train(dataset, scope='mmdet'):
    return Config(dict(default_scope=scope, train_dataloader=dict(dataset=dataset)))


@pytest.fixture
def maps(root):
    """Make the config of a data set of mmseg."""
    pytest.importorskip('mmseg')

    def make(**options):
        dataset = dict(
            type='mmseg.BaseSegDataset',
            data_root=str(root / 'ADEChallengeData2016'),
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            metainfo=dict(classes=['ground', *CLASSES]),
            reduce_zero_label=True,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
        )
        return train(dict(dataset, **options), 'mmseg')

    return make


def errors(cfg):
    return {row['kind'] for row in check_datasets(cfg)[0].rows() if row['error']}


def refused(cfg, *words):
    """Check that both checks refuse a config with one sentence that has some words."""
    for check in (lambda: mmvanilla.preflight(cfg, ['train']), lambda: check_datasets(cfg)):
        with pytest.raises(UserError) as error:
            check()
        assert '\n' not in str(error.value)
        assert all(word in str(error.value) for word in words), str(error.value)


# ---- Classes


@pytest.mark.parametrize('kind', ['coco', 'maps'])
@pytest.mark.parametrize(
    ('classes', 'words'),
    [
        ('uav', ["'uav'", 'file', 'comma']),
        ('', ["''", 'file']),
        ({'circle', 'square'}, ['set', 'tuple']),
        (dict(circle=0, square=1), ['dict', 'tuple']),
        (3, ['3', 'int', 'tuple']),
        ((1, 2), ['1', 'int', 'texts']),
        (('circle', None), ['None', 'texts']),
        (None, ['None', 'tuple']),
        ((), ['()', 'tuple']),
        ([], ['[]', 'tuple']),
        (('circle', 'square', 'circle'), ["'circle' 2 times"]),
    ],
)
def test_classes_that_are_no_tuple_of_names(kind, classes, words, request):
    make = request.getfixturevalue(kind)
    refused(make(metainfo=dict(classes=classes)), 'classes', *words)


def test_metainfo_of_another_kind(coco):
    refused(coco(metainfo=CLASSES), 'metainfo', 'dict(classes=')
    refused(coco(metainfo=dict(CLASSES=CLASSES)), 'CLASSES', 'write classes')


@pytest.mark.parametrize('kind', [list, tuple])
def test_classes_as_lists_and_in_a_file(kind, coco, maps, tmp_path, monkeypatch):
    for make, names in ((coco, CLASSES), (maps, ['ground', *CLASSES])):
        assert errors(make(metainfo=dict(classes=kind(names)))) == set()
        (tmp_path / 'classes.txt').write_text('\n'.join(names) + '\n')
        assert errors(make(metainfo=dict(classes=str(tmp_path / 'classes.txt')))) == set()
    monkeypatch.chdir(tmp_path)
    assert errors(maps(metainfo=dict(classes='classes.txt'))) == set()
    (tmp_path / 'classes.txt').write_text('circle\ncircle\n')
    refused(maps(metainfo=dict(classes='classes.txt')), "'circle' 2 times")
    (tmp_path / 'classes.txt').write_text('')
    refused(maps(metainfo=dict(classes='classes.txt')), 'classes.txt')


def test_names_in_another_case(coco):
    names = ['Circle', *CLASSES[1:]]
    (row,) = [r for r in check_datasets(coco(metainfo=dict(classes=names)))[0].rows() if r['error']]
    assert row['examples'] == ["'Circle' (the file has 'circle')"]
    upper = [name.upper() for name in CLASSES]
    assert errors(coco(metainfo=dict(classes=upper))) >= {'class without a category'}


def test_the_80_classes_of_coco_are_told_at_once(coco):
    rows = check_datasets(coco(metainfo=None))[0].rows()
    (row,) = [row for row in rows if row['kind'] == 'class without a category']
    assert row['count'] == 1
    assert all(word in row['examples'][0] for word in ('80', "'person'", "'circle'"))


def test_palettes_of_another_length(coco, maps):
    palette = [[0, 0, 0]] * 3
    refused(maps(metainfo=dict(classes=['ground', *CLASSES], palette=palette)), 'palette')
    cfg = coco(metainfo=dict(classes=CLASSES, palette=palette))
    assert errors(cfg) == set()  # it trains; only drawing stops
    kinds = {row['kind'] for row in check_datasets(cfg)[0].rows()}
    assert 'palette shorter than the classes' in kinds
    assert 'palette shorter than the classes' not in {
        row['kind'] for row in check_datasets(coco())[0].rows()
    }


# ---- Paths


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(ann_file=['a.json', 'b.json']), ['a.json', 'ConcatDataset']),
        (dict(data_prefix=dict(img_path='')), ['data_prefix', 'img']),
        (dict(data_prefix=dict(img=None)), ['None', 'texts']),
        (dict(data_prefix=dict(img=3)), ['3', 'texts']),
        (dict(nonsense=1), ['CocoDataset', 'nonsense']),
        (dict(indices='3'), ['indices']),
        (dict(indices=[99]), ['indices']),
    ],
)
def test_options_of_mmdet_that_stop_training(options, words, coco):
    cfg = coco(**options)
    refused(cfg, *words)
    with pytest.raises((AttributeError, IndexError, KeyError, TypeError)):
        len(DATASETS.build(cfg.train_dataloader.dataset))


def test_a_prefix_as_a_text_or_none_at_all(coco, root):
    refused(coco(data_prefix=f'{root}/coco/train2017'), 'data_prefix')
    cfg = coco()
    del cfg.train_dataloader.dataset['data_prefix']
    refused(cfg, 'data_prefix', 'img=')


def test_no_annotation_file(coco):
    assert errors(coco(ann_file='')) == {'no annotation file of COCO'}
    refused(coco(ann_file=None), 'ann_file')


def test_label_maps_beside_their_images_and_in_a_list(maps, tmp_path):
    for i in range(3):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{i}.jpg')
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f'{i}.png')
    options = dict(
        data_root=str(tmp_path),
        metainfo=dict(classes=['a', 'b', 'c']),
        reduce_zero_label=False,
    )
    for prefix in (dict(img_path='', seg_map_path=''), dict(img_path='.', seg_map_path='.')):
        assert check_datasets(maps(**options, data_prefix=prefix))[1] == 6
    (tmp_path / 'list.txt').write_text('0\n1\n')
    cfg = maps(**options, data_prefix=prefix, ann_file='list.txt')
    report, count = check_datasets(cfg)
    assert count == 4
    assert [row['examples'] for row in report.rows()] == [["'c' (2)"]]
    refused(maps(**options, data_prefix=dict(seg_map_path='.')), 'img_path')
    refused(maps(**dict(options, metainfo=None), data_prefix=prefix), 'classes')


@pytest.mark.parametrize('indices', [2, -1, [0, 3], [1, 1], 99])
def test_indices_take_what_mmengine_takes(indices, coco, root):
    cfg = coco(indices=indices, filter_cfg=dict(filter_empty_gt=True, min_size=32))
    expected = len(DATASETS.build(cfg.train_dataloader.dataset))
    assert check_datasets(cfg)[1] == expected


def test_images_that_indices_leave_out_are_not_missed(coco, root):
    file = root / 'coco/train2017/000000000004.jpg'
    content = file.read_bytes()
    file.unlink()
    try:
        assert errors(coco()) == {'missing image'}
        assert errors(coco(indices=2)) == set()
    finally:
        file.write_bytes(content)
    assert 'nothing to train or test on' in errors(coco(indices=0))


# ---- Wrappers


def test_wrapped_data_sets(coco, root):
    inner = coco().train_dataloader.dataset
    other = dict(inner, ann_file=str(root / 'coco/annotations/instances_val2017.json'))
    other['data_prefix'] = dict(img=f'{root}/coco/val2017/')
    for wrapper, count in (
        (dict(type='RepeatDataset', times=2, dataset=inner), 4),
        (dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=inner), 4),
        (dict(type='ConcatDataset', datasets=[inner, other]), 6),
        (dict(type='ConcatDataset', datasets=[inner, inner]), 4),
        (
            dict(
                type='MultiImageMixDataset',
                dataset=dict(type='ConcatDataset', datasets=[inner, other]),
                pipeline=[dict(type='Resize', scale=(64, 64))],
            ),
            6,
        ),
    ):
        cfg = train(wrapper)
        report, found = check_datasets(cfg)
        assert found == count
        assert report.errors == 0
        assert {row['data'] for row in report.rows()} <= {'train'}
        assert len(DATASETS.build(cfg.train_dataloader.dataset)) >= 4
    other['ann_file'] = inner['ann_file'] + 'x'
    cfg = train(dict(type='ConcatDataset', datasets=[inner, other]))
    assert errors(cfg) == {'no annotation file of COCO'}
    with pytest.raises(UserError, match='jsonx'):
        mmvanilla.preflight(cfg, ['train'])


@pytest.mark.parametrize(
    'wrap',
    [
        lambda steps: [steps[0], dict(type='RandomApply', transforms=[steps[1]]), steps[2]],
        lambda steps: [dict(type='TestTimeAug', transforms=[[steps[0]], [steps[1]], [steps[2]]])],
        lambda steps: [
            steps[0],
            dict(type='MultiBranch', branch_field=['sup'], sup=[steps[1], steps[2]]),
        ],
    ],
)
def test_steps_within_steps_load_masks_too(wrap, coco, root, tmp_path):
    document = json.loads((root / 'coco/annotations/instances_train2017.json').read_text())
    document['annotations'][0]['segmentation'] = []
    (tmp_path / 'a.json').write_text(json.dumps(document))
    steps = coco().train_dataloader.dataset.pipeline
    cfg = coco(ann_file=str(tmp_path / 'a.json'), pipeline=wrap(steps))
    assert errors(cfg) == {'annotation without a segmentation'}


# ---- Configs in pure Python

PURE = """
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.evaluation import CocoMetric
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import RepeatDataset

default_scope = None
pipeline = [
    dict(type=LoadImageFromFile, color_type='unchanged'),
    dict(type=LoadAnnotations, with_bbox=True, with_mask=True),
    dict(type=PackDetInputs),
]
dataset = dict(
    type=CocoDataset,
    ann_file={file!r},
    data_prefix=dict(img={folder!r}),
    metainfo=dict(classes={classes!r}),
    pipeline=pipeline,
)
train_dataloader = dict(dataset=dict(type=RepeatDataset, times=1, dataset=dataset))
val_dataloader = dict(dataset=dict(dataset, test_mode=True))
val_evaluator = dict(type=CocoMetric, ann_file={file!r}, metric=['bbox', 'segm'])
"""


@pytest.mark.parametrize('lazy', [True, False])
def test_types_that_are_classes(lazy, root, tmp_path):
    document = json.loads((root / 'coco/annotations/instances_train2017.json').read_text())
    del document['annotations'][1]['iscrowd']
    (tmp_path / 'a.json').write_text(json.dumps(document))
    turned = tmp_path / 'turned'
    turned.mkdir()
    for file in (root / 'coco/train2017').iterdir():
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(file).save(turned / file.name, exif=exif)
    text = PURE.format(file=str(tmp_path / 'a.json'), folder=str(turned), classes=CLASSES)
    (tmp_path / 'config.py').write_text(text)
    if lazy:
        cfg = Config.fromfile(tmp_path / 'config.py')
    else:
        names = {}
        exec(text, names)
        keys = ('train_dataloader', 'val_dataloader', 'val_evaluator', 'default_scope')
        cfg = Config({key: names[key] for key in keys})
    rows = check_datasets(cfg)[0].rows()
    # The metric needs iscrowd, of which a step's class told nothing; with color_type='unchanged'
    # pictures are not turned.
    assert {row['kind'] for row in rows if row['error']} == {'evaluated annotation without iscrowd'}
    assert 'turned by EXIF data' not in {row['kind'] for row in rows}
    mmvanilla.preflight(cfg, ['train'])
    with pytest.raises(UserError, match='without iscrowd'):
        mmvanilla.preflight(cfg, ['val'])


def test_a_class_as_type_is_named_where_it_is_refused(coco):
    from mmdet.datasets import XMLDataset

    with pytest.raises(UserError, match='type XMLDataset cannot be checked'):
        check_datasets(coco(type=XMLDataset))


def test_label_maps_with_classes_as_types(maps):
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    cfg = maps(type=BaseSegDataset)
    cfg.train_dataloader.dataset.pipeline[1] = dict(type=LoadAnnotations, reduce_zero_label=False)
    cfg.default_scope = None
    refused(cfg, 'reduce_zero_label')


# ---- Of mmpretrain


def test_images_without_labels(tmp_path):
    pytest.importorskip('mmpretrain')
    for name in ('a.png', 'b.png'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    (tmp_path / 'list.txt').write_text('a.png\nb.png\n')
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), with_label=False)
    for options in (dict(), dict(ann_file='list.txt'), dict(data_prefix=dict(img_path='.'))):
        cfg = train(dict(dataset, **options), 'mmpretrain')
        assert check_datasets(cfg)[1] == 2
        assert errors(cfg) == set()
        check_annotations(cfg, ['train'])
    (tmp_path / 'list.txt').write_text('a.png\nc.png\n')
    assert errors(train(dict(dataset, ann_file='list.txt'), 'mmpretrain')) == {'missing image'}


def test_classes_of_folders(tmp_path):
    pytest.importorskip('mmpretrain')
    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path / name / 'a.png')
    dataset = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path))
    assert errors(train(dict(dataset, metainfo=dict(classes=None)), 'mmpretrain')) == set()
    assert errors(train(dict(dataset, classes=['cat', 'dog']), 'mmpretrain')) == set()
    refused(train(dict(dataset, metainfo=dict(classes='cat')), 'mmpretrain'), "'cat'", 'comma')
    refused(train(dict(dataset, classes='cat'), 'mmpretrain'), "'cat'", 'comma')


def test_the_checked_steps_read_what_the_config_says(coco):
    dataset = DATASETS.build(coco().train_dataloader.dataset)
    assert use_checked_loading(dataset) == 1
    assert Path(dataset[0]['data_samples'].img_path).exists()
