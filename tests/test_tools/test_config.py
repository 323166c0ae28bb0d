"""Options of the command line in a config."""

from argparse import ArgumentParser
from pathlib import Path

import pytest
from mmengine.config import Config

from mmvanilla.cli import RUN, add_arguments, load_config, set_data_root

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob('configs/*.py'))


def load(*command):
    parser = ArgumentParser()
    add_arguments(parser, 'config', *RUN)
    return load_config(parser.parse_args([str(c) for c in command]))


def paths(node, key=''):
    """Yield the data roots and annotation files of a config."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield from paths(child, name)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from paths(child, key)
    elif isinstance(node, str) and key in ('data_root', 'ann_file'):
        yield node


@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_data_root_moves_everything(config):
    cfg = load(config, '--data-root', '/elsewhere')
    found = [
        path
        for key in cfg
        if key.endswith(('_dataloader', '_evaluator'))
        for path in paths(cfg[key])
    ]
    assert '/elsewhere/' in found
    moved = {path for path in found if path.startswith('/elsewhere/')}
    assert set(found) - moved <= {
        path for path in found if '/' not in path.split('annotations/')[0]
    }
    assert not any('data/' in path for path in found)


def test_data_root_of_nested_data_sets():
    inner = dict(type='CocoDataset', data_root='data/a', ann_file='x.json')
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=inner)),
            val_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[inner, inner])),
            val_evaluator=[dict(ann_file='data/a/x.json'), dict(outfile_prefix='work/a')],
        )
    )
    set_data_root(cfg, 'b')
    assert cfg.train_dataloader.dataset.dataset.data_root == 'b/'
    assert [d.data_root for d in cfg.val_dataloader.dataset.datasets] == ['b/', 'b/']
    assert cfg.val_evaluator == [dict(ann_file='b/x.json'), dict(outfile_prefix='work/a')]


@pytest.mark.parametrize('spelling', ['./', 'up', 'absolute', 'link', 'as it is'])
def test_data_root_moves_the_evaluation_file_however_it_is_spelt(spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/coco/annotations').mkdir(parents=True)
    (tmp_path / 'data/coco/annotations/val.json').touch()
    (tmp_path / 'link').symlink_to('data')
    prefix = {
        './': './data/coco',
        'up': 'data/../data/coco',
        'absolute': str(tmp_path / 'data/coco'),
        'link': 'link/coco',
        'as it is': 'data/coco',
    }[spelling]
    dataset = dict(type='CocoDataset', data_root='data/coco/', ann_file='annotations/val.json')
    metric = dict(type='CocoMetric', ann_file=f'{prefix}/annotations/val.json', metric='bbox')
    cfg = Config(dict(val_dataloader=dict(dataset=dataset), val_evaluator=metric))
    set_data_root(cfg, 'other')
    assert cfg.val_evaluator.ann_file == 'other/annotations/val.json'
    assert cfg.val_evaluator.metric == 'bbox'


@pytest.mark.parametrize('old', ['.', './', 'data/coco', '..'])
def test_data_root_moves_paths_only(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = dict(type='CocoDataset', data_root=old, ann_file='val.json')
    metric = dict(type='CocoMetric', metric='bbox', outfile_prefix='work_dirs/results')
    cfg = Config(dict(val_dataloader=dict(dataset=dataset), val_evaluator=metric))
    set_data_root(cfg, 'other')
    assert cfg.val_evaluator == metric
    assert cfg.val_dataloader.dataset.data_root == 'other/'


def test_data_root_moves_absolute_paths_of_data_sets(tmp_path):
    """Absolute paths are not joined with data_root."""
    ann_file = str(tmp_path / 'old/annotations/val.json')
    prefix = dict(img=str(tmp_path / 'old/images'))
    dataset = dict(data_root=str(tmp_path / 'old'), ann_file=ann_file, data_prefix=prefix)
    cfg = Config(dict(val_dataloader=dict(dataset=dataset)))
    set_data_root(cfg, str(tmp_path / 'new'))
    assert cfg.val_dataloader.dataset.ann_file == str(tmp_path / 'new/annotations/val.json')
    assert cfg.val_dataloader.dataset.data_prefix.img == str(tmp_path / 'new/images')


def test_work_dir():
    config = ROOT / 'configs/mask_rcnn_vanillanet13.py'
    assert load(config).work_dir == 'work_dirs/mask_rcnn_vanillanet13'
    assert load(config, '--work-dir', 'here').work_dir == 'here'
    assert load(config, '--cfg-options', 'work_dir=there').work_dir == 'there'


@pytest.mark.parametrize(
    ('option', 'near'),
    [
        ('modle.backbone.arch=5', "'model'"),
        ('optim_wraper.clip_grad=None', "'optim_wrapper'"),
        ('model.backbone.arch=5', None),
        ('visualizer.name=a', None),
        ('auto_scale_lr.base_batch_size=8', None),
        ('custom_keys.a=1', None),
    ],
)
def test_a_misspelt_key_is_warned_of(option, near, monkeypatch):
    """It would be a new key of the config, which nothing reads."""
    warnings = []
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, **options: warnings.append(text))
    load(ROOT / 'configs/mask_rcnn_vanillanet13.py', '--cfg-options', option)
    assert [near in text for text in warnings if '--cfg-options' in text] == [True] * bool(near)
