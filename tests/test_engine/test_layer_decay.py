"""Layer-wise learning-rate decay against the published rule."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmvanilla import ARCHS, VanillaNet

LR = 1.3e-4
# Layer of every stage of VanillaNet-13 and the factor of every layer: 0.6 ** (7 - layer).
LAYERS_OF_13 = {
    'stem': 0,
    0: 1,
    1: 1,
    2: 2,
    3: 2,
    4: 3,
    5: 3,
    6: 4,
    7: 4,
    8: 5,
    9: 5,
    10: 6,
    'head': 7,
}
FACTORS = [0.0279936, 0.046656, 0.07776, 0.1296, 0.216, 0.36, 0.6, 1.0]


def narrow(depth, **options):
    strides = ARCHS[depth]['strides']
    return VanillaNet(dict(dims=[4] * (len(strides) + 1), strides=strides), **options)


class Detector(nn.Module):
    def __init__(self, depth='13', **options):
        super().__init__()
        self.backbone = narrow(depth, **options)
        self.stem_of_head = nn.Conv2d(4, 2, 1)


def wrapper(model, **paramwise):
    return build_optim_wrapper(
        model,
        ConfigDict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=LR, weight_decay=0.05),
            constructor='VanillaNetLayerDecayConstructor',
            paramwise_cfg=paramwise,
        ),
    )


def settings(model, decay_rate=0.6):
    """Return {parameter name: (lr, weight decay)} of the optimizer that is built."""
    groups = wrapper(model, decay_rate=decay_rate).optimizer.param_groups
    names = {id(param): name for name, param in model.named_parameters()}
    return {names[id(p)]: (g['lr'], g['weight_decay']) for g in groups for p in g['params']}


def mask_rcnn():
    """Build the model of the published recipe on the meta device."""
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/mask_rcnn_vanillanet13.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize(
    'build', [mask_rcnn, Detector, lambda: Detector(deploy=True)], ids=['mask_rcnn', '', 'deploy']
)
def test_every_parameter_of_13(build):
    model = build()
    found = settings(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, param in model.named_parameters():
        if name.startswith('backbone.stem'):
            layer = LAYERS_OF_13['stem']
        elif name.startswith('backbone.stages.'):
            layer = LAYERS_OF_13[int(name.split('.')[2])]
        else:
            layer = LAYERS_OF_13['head']
        lr, weight_decay = found[name]
        assert lr == pytest.approx(LR * FACTORS[layer])
        assert weight_decay == (0.05 if param.ndim in (2, 4) else 0.0)


@pytest.mark.parametrize(('depth', 'last'), [('5', 3), ('6', 3), ('9', 5), ('12', 6)])
def test_other_depths_count_their_own_stages(depth, last):
    found = settings(Detector(depth))
    stages = len(ARCHS[depth]['strides'])
    assert found['backbone.stem1.0.weight'][0] == pytest.approx(LR * 0.6**last)
    assert found[f'backbone.stages.{stages - 1}.conv1.0.weight'][0] == pytest.approx(LR * 0.6)
    assert found['stem_of_head.weight'][0] == LR


def test_learning_rates_do_not_depend_on_the_levels():
    whole, some = settings(narrow('13')), settings(narrow('13', out_indices=(0, 1, 2)))
    assert 'stages.10.conv1.0.weight' not in some
    assert some == {name: whole[name] for name in some}


def test_a_backbone_alone_and_frozen_parameters():
    net = narrow('13', frozen_stages=1)
    found = settings(net)
    assert not any(name.startswith(('stem', 'stages.0.')) for name in found)
    assert found['stages.10.conv1.0.weight'][0] == pytest.approx(LR * 0.6)


@pytest.mark.parametrize('options', [{}, dict(decay_rate=0), dict(decay_rate=2), dict(rate=0.6)])
def test_bad_options(options):
    with pytest.raises(ValueError, match='expected dict'):
        wrapper(Detector(), **options)


def test_a_model_without_the_backbone():
    with pytest.raises(ValueError, match='0 VanillaNet backbones, expected one'):
        wrapper(nn.Linear(2, 2), decay_rate=0.6)


def test_groups_step_at_their_own_rate():
    model = Detector()
    optim = wrapper(model, decay_rate=0.6)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optim.step()
    # AdamW's first step moves each parameter by lr.
    for name in ('backbone.stem1.0.bias', 'backbone.stages.4.conv1.0.bias', 'stem_of_head.bias'):
        moved = (before[name] - dict(model.named_parameters())[name]).abs().mean().item()
        factor = {'backbone.stem1.0.bias': 0, 'stem_of_head.bias': 7}.get(name, 3)
        assert moved == pytest.approx(LR * FACTORS[factor], rel=1e-3)
