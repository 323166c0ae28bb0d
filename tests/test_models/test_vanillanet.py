"""The backbone, against published parameter counts and features of the authors' code."""

import operator
from pathlib import Path

import mmdet.registry
import mmpretrain.registry
import mmseg.registry
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvanilla import ARCHS, VanillaNet
from mmvanilla.benchmark.peak_memory import peak_memory
from mmvanilla.models.vanillanet import MMCV_IS_COMPILED

DATA = Path(__file__).parents[1] / 'data'
NARROW = dict(dims=(8, 8, 12, 16, 16, 24), strides=(1, 2, 2, 1, 2))

# Parameters without the head, deploy form and training form.
PUBLISHED_PARAMS = {
    '5': (11_426_304, 17_228_800),
    '6': (28_412_416, 51_016_704),
    '7': (28_700_672, 51_570_176),
    '8': (32_999_424, 60_075_520),
    '9': (37_298_176, 68_580_864),
    '10': (41_596_928, 77_086_208),
    '11': (45_895_680, 85_591_552),
    '12': (50_194_432, 94_096_896),
    '13': (54_493_184, 102_602_240),
    '13-x1.5': (121_651_200, 229_794_048),
    '13-x1.5-ada': (121_651_200, 229_794_048),
}


@pytest.mark.parametrize('arch', PUBLISHED_PARAMS)
def test_parameter_counts_are_the_published_ones(arch):
    with torch.device('meta'):
        counts = tuple(
            sum(p.numel() for p in VanillaNet(arch, deploy=deploy).parameters())
            for deploy in (True, False)
        )
    assert counts == PUBLISHED_PARAMS[arch]


def load(name):
    record = torch.load(DATA / name, weights_only=True)
    checkpoint = record['checkpoint']
    weights = checkpoint.get('model_ema') or checkpoint.get('model') or checkpoint['state_dict']
    weights = {
        key.removeprefix('backbone.'): value
        for key, value in weights.items()
        if not key.startswith('cls')
    }
    arch = dict(record['arch'])
    net = VanillaNet(act_num=arch.pop('act_num'), arch=arch).eval()
    net.load_state_dict(weights, strict=True)
    return net, record


@pytest.mark.parametrize(
    ('name', 'key', 'act_learn'),
    [
        ('cls6.pt', 'features_act1', 1),
        ('cls6.pt', 'features_act0.3', 0.3),
        ('det13.pt', 'features', 1),
        ('ada13.pt', 'features', 1),
    ],
)
@torch.no_grad()
def test_features_are_those_of_the_authors_code(name, key, act_learn):
    net, record = load(name)
    net.act_learn = act_learn
    features = net(record['input'])
    assert len(features) == len(record[key]) == 4
    for ours, theirs in zip(features, record[key], strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_deploy_form_has_the_published_names():
    names = set(VanillaNet(NARROW, deploy=True).state_dict())
    stem = {'stem.0.weight', 'stem.0.bias', 'stem.1.weight', 'stem.1.bias'}
    stage = ('conv.weight', 'conv.bias', 'act.weight', 'act.bias')
    assert names == stem | {f'stages.{i}.{name}' for i in range(5) for name in stage}


@pytest.mark.parametrize('registry', [mmdet.registry, mmseg.registry, mmpretrain.registry])
def test_the_three_libraries_find_it(registry):
    assert registry.MODELS.get('VanillaNet') is VanillaNet
    net = registry.MODELS.build(dict(type='VanillaNet', arch=NARROW))
    assert isinstance(net, VanillaNet)


@pytest.mark.parametrize(
    ('arch', 'channels'),
    [
        ('5', (512, 1024, 2048, 4096)),
        (6, (512, 1024, 2048, 4096)),
        (13, (512, 1024, 2048, 4096)),
        ('13-x1.5', (768, 1536, 3072, 6144)),
    ],
)
def test_levels_of_the_published_variants(arch, channels):
    with torch.device('meta'):
        net = VanillaNet(arch, deploy=True).eval()
        features = net(torch.empty(2, 3, 64, 96))
    assert net.out_channels == channels
    assert net.out_strides == (4, 8, 16, 32)
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    expected = [(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    assert [tuple(f.shape) for f in features] == expected


@pytest.mark.parametrize('deploy', [False, True])
def test_a_level_is_the_last_output_at_its_resolution(deploy):
    net = VanillaNet(NARROW, deploy=deploy).eval()
    outputs = []
    stem = net.stem if deploy else net.stem2
    for module in [stem, *net.stages]:
        module.register_forward_hook(lambda _module, _args, out: outputs.append(out))
    features = net(torch.randn(1, 3, 64, 64))
    last = {out.shape[-1]: out for out in outputs}  # a later one of the same size takes its place
    assert [f.shape[-1] for f in features] == [16, 8, 4, 2] == list(last)
    # For a compiled mmcv they are copied.
    same = torch.equal if MMCV_IS_COMPILED else operator.is_
    assert all(same(ours, last[ours.shape[-1]]) for ours in features)


def test_out_indices_select_levels():
    net = VanillaNet(NARROW).eval()
    image = torch.randn(1, 3, 64, 64)
    every = net(image)
    some = VanillaNet(NARROW, out_indices=[1, 2]).eval()
    some.load_state_dict(net.state_dict())
    assert some.out_channels == (12, 16)
    for ours, theirs in zip(some(image), every[1:3], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ('out_indices', 'stages', 'stride'),
    [((0,), 1, 4), ((0, 1), 2, 8), ((2,), 4, 16), ((3,), 5, 32)],
)
@pytest.mark.parametrize('options', [dict(), dict(with_cp=True), dict(deploy=True)])
def test_stages_after_the_last_level_are_not_built(options, out_indices, stages, stride):
    torch.manual_seed(0)
    net = VanillaNet(NARROW, out_indices, **options)
    assert len(net.stages) == stages
    assert net.arch['dims'] == NARROW['dims']
    assert net.min_size == stride
    torch.manual_seed(0)
    whole = VanillaNet(NARROW, **options).state_dict()
    assert all(torch.equal(whole[name], value) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match=f'its stride of {stride};'):
        net(torch.randn(1, 3, stride - 1, stride))
    if not net.deploy:
        sum(level.square().sum() for level in net(torch.randn(2, 3, 64, 64))).backward()
        assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_net_without_its_last_level_is_fused_after_a_training_step():
    net = VanillaNet(NARROW, out_indices=(0, 1))
    net(torch.randn(2, 3, 64, 64))
    image = torch.randn(1, 3, 64, 64)
    expected = net.eval()(image)
    net.switch_to_deploy()
    for ours, theirs in zip(net(image), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_level_of_the_stem_alone():
    net = VanillaNet('5', out_indices=(0,), norm_cfg=dict(type='BN', momentum=None))
    assert [name for name, _ in net.named_children()] == ['stem1', 'stem2', 'stages']
    assert len(net.stages) == 0
    assert net(torch.randn(2, 3, 8, 8))[0].shape == (2, 512, 2, 2)
    assert VanillaNet('5', out_indices=(0,), frozen_stages=3).train().num_frozen == 2


def test_adaptive_pool_halves_any_size_rounding_up():
    net = VanillaNet(dict(NARROW, ada_pool=True), deploy=True).eval()
    # (side + 2 - 4) // 3 + 1 after the stem, then ceil(side / 2) three times.
    sizes = [tuple(f.shape[-2:]) for f in net(torch.randn(1, 3, 100, 131))]
    assert sizes == [(33, 44), (17, 22), (9, 11), (5, 6)]


def test_act_learn_is_saved_and_optional():
    net = VanillaNet(NARROW)
    net.act_learn = 0.25
    state = net.state_dict()
    other = VanillaNet(NARROW)
    other.load_state_dict(state)
    assert other.act_learn == 0.25
    del state['_act_learn']
    third = VanillaNet(NARROW)
    third.load_state_dict(state, strict=True)
    assert third.act_learn == 1.0


@torch.no_grad()
def test_untrained_features_neither_vanish_nor_explode():
    torch.manual_seed(0)
    for deploy in (False, True):
        net = VanillaNet(dict(dims=[64] * 12, strides=ARCHS['13']['strides']), deploy=deploy).eval()
        assert 1e-3 < net(torch.randn(1, 3, 64, 64))[-1].std() < 1e4


def trainable(module):
    return {p.requires_grad for p in module.parameters()}


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize(
    ('frozen_stages', 'frozen'), [(-1, -1), (0, 0), (1, 1), (2, 2), (3, 4), (4, 5)]
)
def test_frozen_stages(frozen_stages, frozen, deploy):
    net = VanillaNet(NARROW, frozen_stages=frozen_stages, deploy=deploy).train()
    stem = [net.stem] if deploy else [net.stem1, net.stem2]
    for module in stem:
        assert trainable(module) == {frozen < 0}
        assert module.training == (frozen < 0)
    for i, stage in enumerate(net.stages):
        assert trainable(stage) == {i >= frozen}
        assert stage.training == (i >= frozen)


def test_norm_eval_keeps_the_statistics():
    net = VanillaNet(NARROW, norm_eval=True).train()
    before = [m.running_mean.clone() for m in net.modules() if isinstance(m, _BatchNorm)]
    net(torch.randn(2, 3, 64, 64))
    after = [m.running_mean for m in net.modules() if isinstance(m, _BatchNorm)]
    assert len(before) == 3 + 3 * 5
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert net.training
    assert net.stages[0].training


@pytest.mark.parametrize('act_learn', [0.3, 1.0])
def test_with_cp_gives_the_same_gradients_and_statistics(act_learn):
    torch.manual_seed(0)
    stored, recomputed = VanillaNet(NARROW), VanillaNet(NARROW, with_cp=True)
    recomputed.load_state_dict(stored.state_dict())
    stored.act_learn = recomputed.act_learn = act_learn
    image = torch.randn(2, 3, 64, 64)
    calls = []
    recomputed.stages[1].register_forward_pre_hook(lambda *_: calls.append(1))
    for net in (stored, recomputed):
        sum(f.square().sum() for f in net(image)).backward()
    assert len(calls) == 2  # once forward, once more in the backward pass
    for a, b in zip(stored.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(stored.buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(a, b)  # no batch is counted twice
    assert all(m.momentum == 0.1 for m in recomputed.modules() if isinstance(m, _BatchNorm))


def test_with_cp_keeps_less():
    def held(with_cp):
        net = VanillaNet(NARROW, with_cp=with_cp)
        image = torch.randn(2, 3, 128, 128)

        def step():
            sum(f.square().sum() for f in net(image)).backward()

        step()
        return peak_memory(net, step, torch.device('cpu'))

    assert held(True) < 0.8 * held(False)


def test_norm_cfg():
    net = VanillaNet(NARROW, norm_cfg=dict(type='SyncBN'))
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert {m.eps for m in norms} == {1e-6}
    assert net.stem1[1].eps == 1e-6
    assert VanillaNet(NARROW, norm_cfg=dict(type='BN', eps=1e-3)).stem1[1].eps == 1e-3


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (dict(arch='14'), "arch of VanillaNet is '14', expected one of 5, 6, 7"),
        (dict(arch=4), 'arch of VanillaNet is 4, expected one of'),
        (dict(arch=dict(dims=[8, 8])), r"keys \['dims'\], expected dims, strides"),
        (dict(arch=dict(dims=[8, 8], strides=[1], width=2)), 'expected dims, strides and optional'),
        (dict(arch=dict(dims=[8, 8, 8], strides=[2])), '3 dims and 1 strides'),
        (dict(arch=dict(dims=[8, 0], strides=[2])), 'dims of arch is .*positive integers'),
        (dict(arch=dict(dims=[8, 8], strides=['2'])), 'strides of arch is .*positive integers'),
        (dict(out_indices=(0, 4)), r'out_indices is \(0, 4\), .* from 0 to 3'),
        (dict(out_indices=(2, 1)), r'out_indices is \(2, 1\), expected ascending'),
        (dict(out_indices=()), r'out_indices is \(\)'),
        (dict(out_indices=3), 'out_indices is 3'),
        (dict(act_num=-1), 'act_num is -1, expected an integer of at least 0'),
        (dict(in_channels=0), 'in_channels is 0, expected'),
        (dict(frozen_stages=5), 'frozen_stages is 5, expected'),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        VanillaNet(**{'arch': NARROW, **arguments})


@pytest.mark.parametrize(
    ('shape', 'sentence'),
    [
        ((1, 3, 31, 64), '31 x 64 pixels, smaller than its stride of 32'),
        ((1, 1, 64, 64), r'shape \(1, 1, 64, 64\), expected \(N, 3, H, W\)'),
        ((3, 64, 64), r'shape \(3, 64, 64\), expected'),
    ],
)
def test_bad_images(shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        VanillaNet(NARROW)(torch.randn(shape))


@pytest.mark.parametrize('value', [-0.1, 1.5, float('nan')])
def test_bad_act_learn(value):
    net = VanillaNet(NARROW)
    with pytest.raises(ValueError, match='expected a number from 0 to 1'):
        net.act_learn = value


def test_act_learn_of_the_deploy_form_is_one():
    net = VanillaNet(NARROW, deploy=True)
    assert net.act_learn == 1
    with pytest.raises(ValueError, match='deploy form'):
        net.act_learn = 0.5
