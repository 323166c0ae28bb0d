"""Configs based on mmdet's get the hooks of our recipes."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS

from mmvanilla.engine import add_hooks

RECIPE = Path(__file__).parents[2] / 'configs/mask_rcnn_vanillanet13.py'


def types(cfg):
    hooks = [*cfg.default_hooks.values(), *(cfg.get('custom_hooks') or [])]
    return [hook['type'] for hook in hooks if hook]


def ours(cfg):
    kinds = {name: HOOKS.get(name) for name in types(cfg)}  # None for mmdet's, outside its scope
    return {name for name, kind in kinds.items() if 'mmvanilla' in getattr(kind, '__module__', '')}


@pytest.fixture
def cfg():
    return get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')


def test_a_config_of_mmdet_has_them_all(cfg):
    before = types(cfg)
    interval = dict(cfg.default_hooks.checkpoint, type='AtomicCheckpointHook')
    assert set(add_hooks(cfg)) == ours(cfg) | {'ResumableEpochLoop'}
    assert cfg.train_cfg == dict(type='ResumableEpochLoop', max_epochs=12, val_interval=1)
    assert ours(cfg) == ours(Config.fromfile(RECIPE))
    assert cfg.default_hooks.checkpoint == interval  # keeps its arguments
    assert set(before) - set(types(cfg)) == {'CheckpointHook'}
    assert len(types(cfg)) == len(set(types(cfg)))
    once = cfg.to_dict()
    assert not add_hooks(cfg)
    assert cfg.to_dict() == once


def test_a_recipe_stays_as_it_is():
    cfg = Config.fromfile(RECIPE)
    before = cfg.to_dict()
    add_hooks(cfg)
    assert cfg.to_dict() == before


def test_hooks_of_the_config_are_kept(cfg):
    cfg.default_hooks.signals = None
    cfg.default_hooks.checkpoint = dict(type='SomebodysCheckpoints')
    cfg.default_hooks.losses = dict(type='SomethingElse')
    cfg.custom_hooks = [dict(type='ReseedHook'), dict(type='EMAHook')]
    add_hooks(cfg)
    assert cfg.default_hooks.signals is None
    assert 'StopOnSignalHook' not in types(cfg)
    assert 'AtomicCheckpointHook' not in types(cfg)
    assert cfg.default_hooks.losses == dict(type='SomethingElse')
    assert [hook['type'] for hook in cfg.custom_hooks] == [
        *('ReseedHook', 'EMAHook', 'CheckLossHook', 'CheckWeightsHook')
    ]
