"""Fusion, against the training form, the authors' fused outputs and nets built in deploy form."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn import ConvModule
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import init_default_scope
from torch import nn

from mmvanilla import ARCHS, VanillaNet, fuse
from mmvanilla.errors import UserError

DATA = Path(__file__).parents[1] / 'data'
NARROW = dict(dims=(8, 8, 12, 16, 16, 24), strides=(1, 2, 2, 1, 2))


def relative_errors(found, expected):
    assert len(found) == len(expected)
    pairs = zip(found, expected, strict=True)
    return [((a.double() - b.double()).norm() / b.double().norm()).item() for a, b in pairs]


def narrow(arch, ratio=32):
    return dict(ARCHS[arch], dims=[dim // ratio for dim in ARCHS[arch]['dims']])


def check_exact(net, side=64):
    image = torch.randn(2, net.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(image)
        net.switch_to_deploy()
        found = net(image)
    assert max(relative_errors(found, expected)) <= 1e-5


@pytest.mark.parametrize('act_num', [3, 4])
@pytest.mark.parametrize('arch', ARCHS)
def test_fusion_is_exact(arch, act_num, trained):
    check_exact(trained(VanillaNet(narrow(arch), act_num=act_num)).eval())


@pytest.mark.slow
@pytest.mark.parametrize('act_num', [3, 4])
@pytest.mark.parametrize('arch', ARCHS)
def test_fusion_is_exact_at_full_width(arch, act_num, trained):
    check_exact(trained(VanillaNet(arch, act_num=act_num)).eval())


stage = st.tuples(st.integers(1, 12), st.sampled_from([1, 2]))


@settings(max_examples=40, deadline=None)
@given(
    stem=st.integers(1, 12),
    stages=st.lists(stage, min_size=1, max_size=5),
    ada_pool=st.booleans(),
    act_num=st.integers(0, 4),
    in_channels=st.integers(1, 4),
    affine=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_fusion_is_exact_for_any_net(stem, stages, ada_pool, act_num, in_channels, affine, seed):
    torch.manual_seed(seed)
    widths, strides = zip(*stages, strict=True)
    arch = dict(dims=(stem, *widths), strides=strides, ada_pool=ada_pool)
    levels = range(sum(stride > 1 for stride in strides) + 1)
    norm_cfg = dict(type='BN', eps=1e-3, affine=affine)
    net = VanillaNet(arch, levels, act_num, in_channels, norm_cfg)
    image = torch.randn(2, in_channels, 2 * net.min_size, 3 * net.min_size)
    net.train()(image * 3 + 1)  # statistics other than zero and one
    # float64 leaves only rounding, also if terms cancel in a small net.
    net = net.double().eval()
    with torch.no_grad():
        expected = net(image.double())
        found = fuse(net)(image.double())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_fusion_gives_the_outputs_that_the_authors_computed():
    record = torch.load(DATA / 'cls6.pt', weights_only=True)
    arch = dict(record['arch'])
    net = VanillaNet(act_num=arch.pop('act_num'), arch=arch).eval()
    weights = record['checkpoint']['model_ema']
    net.load_state_dict({k: v for k, v in weights.items() if not k.startswith('cls')})
    net.switch_to_deploy()
    with torch.no_grad():
        found = net(record['input'])
    assert max(relative_errors(found, record['features_deploy'])) <= 1e-5


def test_a_fused_net_is_one_built_in_deploy_form(trained):
    net = trained(VanillaNet(NARROW)).eval()
    fuse(net)
    built = VanillaNet(NARROW, deploy=True).eval()
    assert list(net.state_dict()) == list(built.state_dict())
    assert [name for name, _ in net.named_modules()] == [name for name, _ in built.named_modules()]
    built.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(net(image), built(image), strict=True):
        assert torch.equal(a, b)
    # A view, such as the transpose that a product may return, makes the net slower.
    for parameter in net.parameters():
        assert parameter.is_leaf
        assert parameter.is_contiguous()
        assert parameter.storage_offset() == 0
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_fused_weights_keep_their_type(dtype, trained):
    net = trained(VanillaNet(NARROW)).eval()
    exact = fuse(copy.deepcopy(net).double())
    fuse(net.to(dtype))
    assert {p.dtype for p in net.parameters()} == {dtype}
    # Rounded once: to half a unit in the last place of weights that were rounded before.
    for a, b in zip(net.parameters(), exact.parameters(), strict=True):
        assert relative_errors([a], [b])[0] <= 4 * torch.finfo(dtype).eps


def test_weights_that_overflow_are_refused(trained):
    net = trained(VanillaNet(NARROW)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(6e4)
    net.half()
    with pytest.raises(UserError, match='do not fit torch.float16'):
        fuse(net)
    assert not net.deploy
    assert len(net.state_dict()) == len(VanillaNet(NARROW).state_dict())


@pytest.mark.parametrize('training', [True, False])
def test_flags_hooks_and_buffers_stay(training, trained):
    net = trained(VanillaNet(NARROW, frozen_stages=1)).train(training)
    net.register_buffer('mark', torch.tensor(7.0))
    calls = []
    net.register_forward_hook(lambda *_: calls.append('net'))
    net.stages[1].register_forward_hook(lambda *_: calls.append('stage'))
    handle = net.stages[2].act.register_forward_pre_hook(lambda *_: calls.append('act'))
    fuse(net)
    modes = [net.training, net.stem.training, *(stage.training for stage in net.stages)]
    assert modes == [training, False, False, *[training] * 4]
    grads = [p.requires_grad for p in net.parameters()]
    assert grads == [False] * 8 + [True] * 16
    assert [name for name, _ in net.named_buffers()] == ['mark']
    with torch.no_grad():
        net(torch.rand(1, 3, 64, 64))
    assert calls == ['stage', 'act', 'net']
    handle.remove()
    with torch.no_grad():
        net(torch.rand(1, 3, 64, 64))
    assert calls[3:] == ['stage', 'net']


def test_a_fused_net_can_be_copied_pickled_and_fused_again(trained):
    net = fuse(trained(VanillaNet(NARROW)).eval())
    image = torch.rand(1, 3, 64, 64)
    expected = net(image)
    weights = [p.data_ptr() for p in net.parameters()]
    fuse(net)
    assert [p.data_ptr() for p in net.parameters()] == weights
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(torch.equal(a, b) for a, b in zip(twin(image), expected, strict=True))


def test_fusion_draws_no_random_numbers(trained):
    net = trained(VanillaNet(NARROW)).eval()
    state = torch.get_rng_state()
    fuse(net)
    assert torch.equal(torch.get_rng_state(), state)


def test_fusing_a_half_trained_net_is_refused(trained):
    net = trained(VanillaNet(NARROW)).eval()
    net.act_learn = 0.3
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=r'act_learn of backbone is 0\.3, expected 1.*activation'):
        fuse(nn.ModuleDict(dict(backbone=net)))
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def break_norm(norm, how):
    if how == 'fresh':
        norm.reset_running_stats()
    elif how == 'nan':
        norm.running_mean[0] = float('nan')
    elif how == 'negative':
        norm.running_var[-1] = -0.5
    elif how == 'none':
        norm.running_mean = norm.running_var = None


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('fresh', 'never seen a batch'),
        ('nan', 'not finite'),
        ('negative', r'running variance of -0\.5'),
        ('none', 'no running statistics'),
    ],
)
@pytest.mark.parametrize('where', ['stem1.1', 'stem2.2.bn', 'stages.2.conv2.1', 'stages.4.act.bn'])
def test_unusable_statistics_are_refused(how, message, where, trained):
    nets = nn.ModuleList([trained(VanillaNet(NARROW)), trained(VanillaNet(NARROW))])
    break_norm(nets[1].get_submodule(where), how)
    with pytest.raises(UserError, match=rf'^1\.{where} cannot be fused.*{message}'):
        fuse(nets)
    assert not nets[0].deploy  # all or nothing
    assert not nets[1].deploy


def prune(conv):
    nn.utils.prune.l1_unstructured(conv, 'weight', 0.3)


@pytest.mark.parametrize('change', [nn.utils.parametrizations.spectral_norm, prune])
def test_parametrized_and_pruned_convolutions_are_fused(change, trained):
    net = trained(VanillaNet(NARROW)).eval()
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d):
            change(module)
    net.eval()
    check_exact(net)
    assert list(net.state_dict()) == list(VanillaNet(NARROW, deploy=True).state_dict())


def test_norms_that_are_no_batch_norms_are_refused():
    net = VanillaNet(NARROW, norm_cfg=dict(type='GN', num_groups=2))
    with pytest.raises(UserError, match=r'GroupNorm, expected a batch norm'):
        fuse(net)


class Adapted(nn.Module):
    """A convolution with a low-rank adapter, as PEFT wraps it."""

    def __init__(self, conv):
        super().__init__()
        self.base_layer = conv
        self.down = nn.Conv2d(conv.in_channels, 2, conv.kernel_size, conv.stride, bias=False)
        self.up = nn.Conv2d(2, conv.out_channels, 1, bias=False)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


class Scaled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def replace(net, name, module):
    owner, _, child = name.rpartition('.')
    setattr(net.get_submodule(owner), child, module)


def adapt(net, name):
    replace(net, name, Adapted(net.get_submodule(name)))


def subclass(net, name):
    old = net.get_submodule(name)
    old.__class__ = Scaled if isinstance(old, nn.Conv2d) else ScaledNorm


def hook(net, name):
    net.get_submodule(name).register_forward_hook(lambda _module, _args, out: 2 * out)


def pre_hook(net, name):
    net.get_submodule(name).register_forward_pre_hook(lambda _module, args: 2 * args[0])


def patch(net, name):
    module = net.get_submodule(name)
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)


def append(net, name):
    net.get_submodule(name).append(nn.Hardtanh())


def append_norm(net, name):
    layer = net.get_submodule(name)
    layer.append(nn.BatchNorm2d(layer[0].out_channels))


LAYERS = ['stem1', 'stages.1.conv1', 'stages.1.conv2']
CONVS = [*(f'{layer}.0' for layer in LAYERS), 'stem2.0']
NORMS = [*(f'{layer}.1' for layer in LAYERS), 'stem2.1', 'stem2.2.bn', 'stages.1.act.bn']


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        *((adapt, name) for name in CONVS),
        *((subclass, name) for name in CONVS + NORMS),
        *((hook, name) for name in LAYERS + CONVS + NORMS),
        *((pre_hook, name) for name in [*LAYERS, 'stem2', 'stages.1.act.window']),
        *((patch, name) for name in [*LAYERS, 'stages.1.act.bn']),
        *((append, name) for name in LAYERS),
    ],
)
def test_fusion_drops_nothing_that_changes_outputs(change, name, trained):
    net = trained(VanillaNet(NARROW)).eval()
    change(net, name)
    image = torch.rand(1, 3, 64, 64)
    before = net(image)
    layer = name.split('.')[0] if name.startswith('stem') else 'stages.1'
    with pytest.raises(UserError, match=rf'^0\.{layer[:4]}.* cannot be fused.*merge_and_unload'):
        fuse(nn.ModuleList([net]))
    assert not net.deploy
    assert all(torch.equal(a, b) for a, b in zip(net(image), before, strict=True))


@pytest.mark.parametrize('name', CONVS)
def test_a_merged_adapter_is_fused(name, trained):
    net = trained(VanillaNet(NARROW)).eval()
    adapt(net, name)
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        expected = net(image)
        adapted = net.get_submodule(name)
        delta = adapted.up.weight.flatten(1) @ adapted.down.weight.flatten(1)
        adapted.base_layer.weight += delta.view_as(adapted.base_layer.weight)
        replace(net, name, adapted.base_layer)
        found = fuse(net)(image)
    assert max(relative_errors(found, expected)) <= 1e-5


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_layers_that_change_nothing_in_eval_mode_are_fused(dtype, trained):
    net = VanillaNet(NARROW)
    for layer in (net.stem1, net.stages[1].conv1, net.stages[2].conv2):
        layer.append(nn.Dropout(0.5))
        layer.register_forward_hook(lambda *_: None)
        layer[0].register_forward_pre_hook(lambda *_: None)
        layer[1].register_forward_hook(lambda _module, _args, out: out)
        append_norm(layer, '')
    net = trained(net).train()
    check_exact(copy.deepcopy(net).eval())
    assert fuse(net.to(dtype)).deploy


def test_hooks_of_the_neck_that_change_outputs_keep_its_batch_norms(trained):
    model = trained(nn.ModuleList([ConvModule(4, 4, 3, norm_cfg=dict(type='BN')) for _ in 'abc']))
    model.eval()
    hook(model, '0.conv')
    hook(model, '1.bn')
    image = torch.rand(1, 4, 8, 8)
    expected = [module(image) for module in model]
    fuse(model, neck_and_heads=True)
    assert torch.equal(model[0](image), expected[0])
    assert torch.equal(model[1](image), expected[1])
    assert max(relative_errors([model[2](image)], expected[2:])) <= 1e-5
    assert [isinstance(module.norm, nn.Identity) for module in model] == [False, False, True]


def test_training_a_fused_net_is_refused_unless_it_is_frozen(trained):
    net = fuse(trained(VanillaNet(NARROW))).train()
    image = torch.rand(2, 3, 64, 64)
    with pytest.raises(UserError, match='deploy form.*not for training'):
        net(image)
    with torch.no_grad():
        net(image)
    net.requires_grad_(False)
    head = nn.Conv2d(24, 1, 1)
    head(net(image)[-1]).sum().backward()
    assert head.weight.grad.abs().sum() > 0


class Wrapper(nn.Module):
    """A wrapper of a model, as DDP without processes."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def detector(trained):
    from mmdet.registry import MODELS
    from mmengine.config import Config

    init_default_scope('mmdet')
    cfg = Config.fromfile('configs/mask_rcnn_vanillanet13_shapes.py')
    cfg.model.backbone.arch = NARROW
    cfg.model.neck.in_channels = [8, 12, 16, 24]
    return trained(MODELS.build(cfg.model)).eval()


@pytest.mark.parametrize('wrap', [lambda m: m, Wrapper, ExponentialMovingAverage])
def test_a_net_is_found_anywhere_in_a_model(wrap, trained):
    model = detector(trained)
    image = torch.rand(1, 3, 64, 64)
    expected = model.extract_feat(image)
    wrapped = wrap(model)
    assert fuse(wrapped) is wrapped
    inner = wrapped if wrapped is model else wrapped.module
    assert inner.backbone.deploy
    assert max(relative_errors(inner.extract_feat(image), expected)) <= 1e-5


def test_batch_norms_of_neck_and_heads_on_request(trained):
    model = detector(trained)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = model.extract_feat(image)
        expected = [*features, *model.roi_head.mask_head(features[0]).split(1)]
        fuse(model, neck_and_heads=True)
        features = model.extract_feat(image)
        found = [*features, *model.roi_head.mask_head(features[0]).split(1)]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert max(relative_errors(found, expected)) <= 1e-5


def test_a_convolution_with_several_norms_is_left_alone(trained):
    one, two = (ConvModule(4, 4, 1, norm_cfg=dict(type='BN')) for _ in range(2))
    two.conv = one.conv  # as RetinaNet's heads with separate norms share it between levels
    model = trained(nn.ModuleList([one, two])).eval()
    image = torch.rand(1, 4, 8, 8)
    expected = [one(image), two(image)]
    fuse(model, neck_and_heads=True)
    assert torch.equal(one(image), expected[0])
    assert torch.equal(two(image), expected[1])
