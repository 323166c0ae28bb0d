"""Parts that do not fit together are named before anything runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmvanilla.engine import check_model
from mmvanilla.errors import UserError

ROOT = Path(__file__).parents[2]


def build(name, **options):
    """Build the model of a config, without memory for its weights."""
    from mmengine.registry import MODELS

    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.merge_from_dict(options)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return SimpleNamespace(model=MODELS.build(cfg.model))


NAMES = [
    'mask_rcnn_vanillanet13',
    'mask_rcnn_vanillanet13_1.5x',
    'cascade_mask_rcnn_vanillanet13',
    'retinanet_vanillanet13',
    'upernet_vanillanet13',
    'mask_rcnn_vanillanet13_shapes',
    'mask_rcnn_vanillanet13_shapes_finetune',
    'retinanet_vanillanet13_shapes',
    'upernet_vanillanet13_shapes',
    *(f'vanillanet{depth}_imagenet' for depth in range(5, 14)),
    'vanillanet13_1.5x_imagenet',
    'vanillanet13_1.5x_ada_imagenet',
]


def test_every_config_is_tested():
    assert {path.stem for path in ROOT.glob('configs/*.py')} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_configs_fit(name):
    check_model(build(name))


@pytest.mark.parametrize('name', NAMES[2:5])
@pytest.mark.parametrize('arch', [5, 9, '12'])
def test_another_variant_fits(name, arch):
    check_model(build(name, **{'model.backbone.arch': arch}))


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        (
            'mask_rcnn_vanillanet13',
            r'model.neck.in_channels is \[512, 1024, 2048, 4096\], but the backbone gives '
            r'\[768, 1536, 3072, 6144\]; set model.neck.in_channels=\[768,1536,3072,6144\]',
        ),
        ('retinanet_vanillanet13', r'set model.neck.in_channels=\[1536,3072,6144\]'),
        ('upernet_vanillanet13', r'set model.decode_head.in_channels=\[768,1536,3072,6144\]'),
    ],
)
def test_channels_that_do_not_fit(name, sentence):
    with pytest.raises(UserError, match=sentence):
        check_model(build(name, **{'model.backbone.arch': '13-x1.5'}))


def test_strides_that_do_not_fit():
    options = {'model.backbone.arch': '13-x1.5-ada'}
    options['model.neck.in_channels'] = [768, 1536, 3072, 6144]
    with pytest.raises(UserError, match=r'rpn_head.* the backbone gives \[3, 6, 12, 24\]'):
        check_model(build('mask_rcnn_vanillanet13', **options))


def test_a_pyramid_that_starts_later_fits():
    options = {'model.backbone.out_indices': (0, 1, 2, 3), 'model.neck.start_level': 1}
    options['model.neck.in_channels'] = [512, 1024, 2048, 4096]
    check_model(build('retinanet_vanillanet13', **options))


def test_levels_that_are_not_there():
    options = {'model.backbone.out_indices': (1, 2, 3)}
    with pytest.raises(UserError, match='in_index is .* but the backbone gives 3 levels'):
        check_model(build('upernet_vanillanet13', **options))


def test_auxiliary_head_that_does_not_fit():
    runner = build('upernet_vanillanet13', **{'model.auxiliary_head.in_channels': 1024})
    with pytest.raises(UserError, match='model.auxiliary_head.in_channels is 1024, .* gives 2048'):
        check_model(runner)


def test_crops_smaller_than_the_stride():
    runner = build('upernet_vanillanet13', **{'model.data_preprocessor.size': (16, 64)})
    with pytest.raises(UserError, match=r'is \(16, 64\), smaller than the stride .* 32'):
        check_model(runner)
