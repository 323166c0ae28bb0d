"""Acceleration: the same outputs as the fused net's, the same interface, and what is refused."""

import copy
import platform
from pathlib import Path

import pytest
import torch
from torch import nn

from mmvanilla import VanillaNet, accelerate, fuse
from mmvanilla.benchmark.model import calibrate
from mmvanilla.deploy.accelerate import fast_layers as layers
from mmvanilla.deploy.accelerate.cuda_graphs import GraphCache
from mmvanilla.deploy.accelerate.low_precision import (
    check_range,
    has_fast_bfloat16,
    has_instructions,
)
from mmvanilla.errors import UserError
from mmvanilla.models import SeriesActivation

ARCHS = {
    'pool': dict(dims=[16, 16, 32, 64, 64], strides=[1, 2, 2, 2]),
    'no pool': dict(dims=[16, 16, 32], strides=[1, 1]),
    'ada': dict(dims=[16, 16, 32, 64], strides=[1, 2, 2], ada_pool=True),
    'stride 3': dict(dims=[16, 32], strides=[3]),
}
needs_bf16 = pytest.mark.skipif(
    not has_instructions(torch.bfloat16), reason='no instructions for bfloat16'
)


def make_net(kind='pool', **options):
    torch.manual_seed(0)
    arch = ARCHS[kind]
    levels = sum(stride > 1 for stride in arch['strides']) + 1
    net = VanillaNet(arch, out_indices=tuple(range(levels)), **{'act_num': 4, **options}).eval()
    calibrate(net)
    return net


def error(outputs, references):
    """Return the largest relative L2 error; shapes and types must agree."""
    worst = 0.0
    assert type(outputs) is type(references)
    assert len(outputs) == len(references)
    for mine, its in zip(outputs, references, strict=True):
        assert mine.shape == its.shape
        assert mine.dtype == its.dtype == torch.float32
        assert its.norm() > 0
        worst = max(worst, ((mine.double() - its.double()).norm() / its.double().norm()).item())
    return worst


@torch.no_grad()
@pytest.mark.parametrize('kind', ARCHS)
@pytest.mark.parametrize('act_num', [0, 1, 4, 5])
def test_float32_outputs_are_those_of_the_fused_net(kind, act_num):
    net = make_net(kind, act_num=act_num)
    x = torch.randn(2, 3, 75, 90)
    fused = fuse(copy.deepcopy(net))(x)
    assert accelerate(net, dtype='fp32') is net
    assert error(net(x), fused) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize('channels', [5, 32, 257])
def test_layers_on_the_cpu_compute_the_same_for_any_number_of_channels(channels, dtype):
    act = SeriesActivation(channels, 4, {}, deploy=True).requires_grad_(False)
    nn.init.normal_(act.weight)
    nn.init.normal_(act.bias)
    conv = nn.Conv2d(3, channels, 1).requires_grad_(False)
    layer = nn.Sequential(*layers.cpu_layer(conv, nn.MaxPool2d(2), act, dtype))
    x = torch.randn(2, 3, 23, 36)
    out = layer(x.to(dtype)).to_dense().float()
    expected = act(nn.functional.max_pool2d(conv(x), 2))
    assert (out - expected).norm() / expected.norm() < (1e-5 if dtype == torch.float32 else 1e-2)


@needs_bf16
@torch.no_grad()
@pytest.mark.parametrize('kind', ARCHS)
def test_bfloat16_loses_no_more_than_the_type_itself(kind):
    net = make_net(kind)
    x = torch.randn(2, 3, 64, 96)
    fused = fuse(copy.deepcopy(net))
    reference = fused(x)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = tuple(out.float() for out in fused(x))
    accelerated = accelerate(net, dtype='bf16')(x)
    assert 0 < error(accelerated, reference) < 1.1 * error(rounded, reference)
    # The first level is four roundings from the image; every later layer adds four.
    assert error(accelerated[:1], reference[:1]) < 4 * torch.finfo(torch.bfloat16).eps / 2


@torch.no_grad()
@pytest.mark.parametrize('kind', ARCHS)
@pytest.mark.parametrize('act_num', [0, 1, 4, 5])
def test_the_layers_for_cuda_compute_the_same(kind, act_num):
    # On the CPU the fused operator falls back on PyTorch's.
    net = fuse(make_net(kind, act_num=act_num))
    x = torch.randn(2, 3, 75, 90)
    fused = net(x)
    outs = []
    stem = layers.cuda_layer(net.stem[0], nn.Identity(), net.stem[1], torch.float32)
    x = nn.Sequential(*stem)(x)
    outs += [x] if -1 in net.out_stages else []
    for i, stage in enumerate(net.stages):
        layer = layers.cuda_layer(stage.conv, stage.pool, stage.act, torch.float32)
        x = nn.Sequential(*layer)(x)
        outs += [x] if i in net.out_stages else []
    assert error(tuple(outs), fused) < 1e-5


def test_a_pool_goes_into_the_activation_on_cuda():
    stage = fuse(make_net('pool')).stages[1]
    layer = layers.cuda_layer(stage.conv, stage.pool, stage.act, torch.float32)
    parts = [layers.PointwiseConv, nn.Identity, layers.FusedActivation]
    assert [type(part) for part in layer] == parts
    assert layer[2].pool == 2


@torch.no_grad()
def test_ten_sizes_add_nothing_that_is_kept():
    net = make_net()
    fused = fuse(copy.deepcopy(net))
    accelerate(net, dtype='fp32')

    def tensors():
        owners = [*net.modules(), net.forward]
        values = [value for owner in owners for value in vars(owner).values()]
        values += [each for value in values if isinstance(value, tuple) for each in value]
        return {id(value) for value in values if torch.is_tensor(value)}

    before = tensors()
    # Two convolutions a layer, each with its weight and its bias.
    assert len(before) == 4 * (1 + len(net.stages))
    compiled = dict(torch._dynamo.utils.counters['stats'])
    for i in range(10):
        x = torch.randn(1, 3, 64 + 32 * i, 96 + 16 * i)
        assert error(net(x), fused(x)) < 1e-5
    assert tensors() == before
    assert dict(torch._dynamo.utils.counters['stats']) == compiled


def test_the_graph_cache_is_bounded_and_forgets_the_oldest(monkeypatch):
    captured = []

    class Graph:
        def __init__(self, x):
            self.inputs = x.clone()
            self.outputs = (torch.zeros_like(x),)

        def replay(self):
            self.outputs[0].copy_(self.inputs * 2)

    def capture(self, x):
        captured.append(tuple(x.shape))
        graph = Graph(x)
        return graph, graph.inputs, graph.outputs

    monkeypatch.setattr(GraphCache, '_capture', capture)
    cache = GraphCache(lambda x: (x * 2,), limit=3)
    first = cache(torch.ones(1, 1, 1, 1))[0]
    # Captured when met again; 2 is the one unused longest when 4 comes.
    for side in (1, 2, 2, 3, 1, 4, 4, 1, 2, 2):
        x = torch.full((1, 1, side, side), float(side))
        assert torch.equal(cache(x)[0], x * 2)
        assert len(cache.graphs) <= 3
    assert [shape[-1] for shape in captured] == [1, 2, 4, 2]
    assert first.item() == 2  # later replays leave results alone
    copied = copy.deepcopy(cache)
    assert not copied.graphs
    assert copied(torch.ones(1, 1, 2, 2))[0].sum() == 8
    assert len(cache.graphs) == 3


@pytest.mark.parametrize(
    'error',
    [
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.\nMore text'),
        RuntimeError('CUDA error: out of memory'),  # when a graph is instantiated
    ],
)
def test_without_memory_for_graphs_the_results_are_the_same(error, monkeypatch):
    tried = []

    def capture(self, x):
        tried.append(tuple(x.shape))
        raise error

    monkeypatch.setattr(GraphCache, '_capture', capture)
    cache = GraphCache(lambda x: (x * 2,))
    small, large = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4)
    images = [small, small, large, large]
    cache(small)
    with pytest.warns(UserWarning, match=r'no memory for a CUDA graph of \(1, 1, 2, 2\)') as seen:
        outputs = [cache(x)[0] for x in images]
    assert all(torch.equal(out, x * 2) for out, x in zip(outputs, images, strict=True))
    assert tried == [(1, 1, 2, 2)]  # it is not tried again
    (warning,) = seen
    assert 'More text' not in str(warning.message)


def test_another_error_of_a_capture_is_not_taken_for_missing_memory(monkeypatch):
    def capture(self, x):
        raise RuntimeError('operation not permitted when stream is capturing')

    monkeypatch.setattr(GraphCache, '_capture', capture)
    cache = GraphCache(lambda x: (x * 2,))
    cache(torch.ones(1, 1, 2, 2))
    with pytest.raises(RuntimeError, match='not permitted'):
        cache(torch.ones(1, 1, 2, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@torch.no_grad()
@pytest.mark.parametrize('options', [{}, dict(cuda_graph=True), dict(compile=True)])
@pytest.mark.parametrize(('dtype', 'bound'), [('fp32', 1e-5), ('fp16', 1e-2)])
@pytest.mark.parametrize('kind', ARCHS)
def test_cuda(kind, dtype, bound, options):
    net = make_net(kind)
    reference = fuse(copy.deepcopy(net))
    accelerate(net.cuda(), dtype=dtype, **options)
    for i in range(20):  # each size twice in a row
        x = torch.randn(1, 3, 64 + 32 * (i // 2), 96)
        outs = tuple(out.cpu() for out in net(x.cuda()))
        assert error(outs, reference(x)) < bound


@pytest.mark.parametrize('allowed', [False, True])
def test_convolutions_take_tf32_only_where_products_do(allowed):
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    net, seen = accelerate(make_net(), dtype='fp32'), []
    net.stem.register_forward_hook(lambda *_: seen.append(convolutions.allow_tf32))
    try:
        products.allow_tf32 = allowed
        net(torch.randn(1, 3, 64, 64))
        assert seen == [allowed]
        assert convolutions.allow_tf32 == before[1]
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.skipif(not hasattr(torch.backends, 'fp32_precision'), reason='torch before 2.9')
@pytest.mark.parametrize('older', [False, True])
@pytest.mark.parametrize('precision', ['tf32', 'ieee'])
def test_the_newer_settings_of_tf32_work_as_well(precision, older):
    """Once they are set, reading the older ones may raise an error."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    settings = products, convolutions, torch.backends.cudnn.rnn
    before = [setting.fp32_precision for setting in settings]
    allowed = torch.backends.cudnn.allow_tf32
    if older:  # both can be read
        torch.backends.cudnn.allow_tf32 = False
    net, seen = accelerate(make_net(), dtype='fp32'), []
    net.stem.register_forward_hook(lambda *_: seen.append(convolutions.fp32_precision))
    try:
        products.fp32_precision = precision
        convolutions.fp32_precision = 'ieee'  # torch's default differs from that of products
        net(torch.randn(1, 3, 64, 64))
        assert [value == 'tf32' for value in seen] == [precision == 'tf32']
        assert convolutions.fp32_precision == 'ieee'
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@torch.no_grad()
def test_graphs_of_ten_sizes_leak_nothing():
    net = accelerate(make_net().cuda(), cuda_graph=True)
    reserved = []
    for _ in range(4):
        for i in range(10):
            for _ in range(2):
                net(torch.randn(1, 3, 64 + 32 * i, 96, device='cuda'))
        torch.cuda.synchronize()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] <= 1.1 * reserved[1]


@torch.no_grad()
def test_weights_that_a_type_cannot_hold_are_refused():
    net = make_net()
    check_range(net, torch.float16)
    net.stem1[0].weight.fill_(1e5)
    with pytest.raises(UserError, match=r'stem1.0.weight of the fused VanillaNet does not fit'):
        check_range(net, torch.float16)
    check_range(net, torch.bfloat16)


@torch.no_grad()
def test_a_second_call_changes_nothing():
    net = accelerate(make_net(), dtype='fp32')
    x = torch.randn(1, 3, 64, 64)
    before, parts = net(x), [id(module) for module in net.modules()]
    assert accelerate(net, dtype=torch.float32) is net
    assert [id(module) for module in net.modules()] == parts
    for mine, its in zip(net(x), before, strict=True):
        assert torch.equal(mine, its)


@needs_bf16
def test_a_second_call_with_other_options_is_refused():
    net = accelerate(make_net(), dtype='fp32')
    with pytest.raises(UserError, match='accelerated in torch.float32'):
        accelerate(net, dtype='bf16')


@torch.no_grad()
def test_hooks_of_stages_stay():
    net, x, seen = make_net(), torch.randn(1, 3, 64, 64), []
    expected = fuse(copy.deepcopy(net))(x)
    net.stages[1].register_forward_hook(lambda module, args, out: seen.append(out.to_dense()))
    accelerate(net, dtype='fp32')(x)
    assert error(tuple(seen), expected[1:2]) < 1e-5


def scale(module):
    module.register_forward_hook(lambda _module, _args, out: 2 * out)


class Adapter(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def subclass(module):
    module.__class__ = Adapter


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('stem.0', scale),
        ('stem.1', scale),
        ('stages.1.conv', scale),
        ('stages.1.act', scale),
        ('stages.2.conv', subclass),
    ],
)
def test_fast_layers_drop_nothing_that_changes_outputs(name, change):
    net, x = fuse(make_net()), torch.randn(1, 3, 64, 64)
    change(net.get_submodule(name))
    before = net(x)
    with pytest.raises(UserError, match=f'{name.rpartition(".")[0]}.*cannot be accelerated'):
        accelerate(net, dtype='fp32')
    assert all(torch.equal(mine, its) for mine, its in zip(net(x), before, strict=True))


@torch.no_grad()
@pytest.mark.parametrize('change', [scale, lambda pool: setattr(pool, 'ceil_mode', True)])
def test_layers_for_cuda_keep_a_pool_that_is_another(change):
    stage = fuse(make_net()).stages[1]
    change(stage.pool)
    layer = layers.cuda_layer(stage.conv, stage.pool, stage.act, torch.float32)
    x = torch.randn(1, 16, 9, 9)
    torch.testing.assert_close(nn.Sequential(*layer)(x), stage(x), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(
    platform.system() != 'Linux' or platform.machine() != 'x86_64', reason='the flags of x86'
)
def test_the_processor_is_asked_for_what_it_has():
    flags = set(Path('/proc/cpuinfo').read_text().split())
    assert has_fast_bfloat16() == bool(flags & {'avx512_bf16', 'amx_bf16'})
    emulated = {'avx512bw', 'avx512vl', 'avx512dq'} <= flags
    assert has_instructions(torch.bfloat16) == (emulated or 'avx_ne_convert' in flags)


def test_what_cannot_be_fused_is_refused_and_unchanged():
    net = make_net()
    net.act_learn = 0.5
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match='act_learn'):
        accelerate(net)
    assert not net.deploy
    assert net.state_dict().keys() == before.keys()


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(dtype='fp8'), "dtype is 'fp8'"),
        (dict(dtype=torch.float64), 'dtype is torch.float64'),
        (dict(compile='yes'), "compile is 'yes'"),
        (dict(cuda_graph='no'), "cuda_graph is 'no'"),
        (dict(cuda_graph=True), 'cuda_graph=True needs CUDA'),
        (dict(compile=True), 'compile=True needs CUDA'),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options, match):
    net = make_net()
    with pytest.raises(UserError, match=match) as caught:
        accelerate(net, **options)
    assert '\n' not in str(caught.value)
    assert not net.deploy


def test_a_model_without_vanillanet_is_refused():
    with pytest.raises(UserError, match='Linear has no VanillaNet'):
        accelerate(nn.Linear(2, 2))


def test_an_accelerated_net_is_not_trained():
    net = accelerate(make_net(), dtype='fp32').train()
    with pytest.raises(UserError, match='not for training'):
        net(torch.randn(1, 3, 64, 64))


def test_wrong_images_are_refused_as_before():
    net = accelerate(make_net(), dtype='fp32')
    with pytest.raises(UserError, match='smaller than its stride'):
        net(torch.randn(1, 3, 16, 64))
    with pytest.raises(UserError, match='expected'):
        net(torch.randn(3, 64, 64))
    with pytest.raises(UserError, match='accelerated on cpu'):
        net(torch.randn(1, 3, 64, 64, device='meta'))


def test_a_copy_computes_the_same():
    net = accelerate(make_net(), dtype='fp32')
    x = torch.randn(1, 3, 64, 64)
    for mine, its in zip(copy.deepcopy(net)(x), net(x), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize('cast', [nn.Module.half, nn.Module.double])
def test_a_cast_leaves_it_as_it_is(cast):
    net = accelerate(make_net(), dtype='fp32')
    x = torch.rand(1, 3, 64, 64)
    expected = net(x)
    for mine, its in zip(cast(net)(x), expected, strict=True):
        assert torch.equal(mine, its)


def test_the_report_names_every_step(monkeypatch, capsys):
    from mmvanilla.deploy.accelerate import steps

    monkeypatch.setattr(steps, 'SHAPE', (64, 96))
    accelerate(make_net(), dtype='fp32', report=True)
    printed = capsys.readouterr().out
    assert 'fused' in printed
    assert 'fast layers, float32' in printed
    assert 'error' in printed
