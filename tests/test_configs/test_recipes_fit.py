"""Backbone, neck and heads of every recipe fit together."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[2]


def build(name, **options):
    """Build the model of a config, without memory for its weights."""
    from mmengine.registry import MODELS

    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.merge_from_dict(options)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


NAMES = sorted(path.stem for path in ROOT.glob('configs/*.py'))


def run_heads(model):
    """Run backbone, neck and first head on meta tensors."""
    model.eval()
    features = model.extract_feat(torch.empty(2, 3, 256, 256, device='meta'))
    for name in ('rpn_head', 'bbox_head', 'decode_head', 'head'):
        if head := getattr(model, name, None):
            return head(features)
    raise AssertionError(type(model))


@pytest.mark.parametrize('name', NAMES)
def test_configs_fit(name):
    assert run_heads(build(name)) is not None


@pytest.mark.parametrize('framework', ['cascade_mask_rcnn', 'retinanet', 'upernet'])
@pytest.mark.parametrize('arch', [5, 9, '12'])
def test_another_variant_fits(framework, arch):
    name = f'{framework}_vanillanet13'
    assert run_heads(build(name, **{'model.backbone.arch': arch})) is not None


def test_a_neck_of_other_channels_does_not_fit():
    model = build('retinanet_vanillanet13', **{'model.neck.in_channels': [1, 2, 3]})
    with pytest.raises(RuntimeError, match='channel'):
        run_heads(model)
