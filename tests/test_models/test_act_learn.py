"""act_learn stays on the device, and forward sees every change of it."""

import copy
import pickle

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from mmvanilla import VanillaNet
from mmvanilla.models.cls_head import VanillaNetClsHead

ARCH = dict(dims=(8, 8, 12, 16), strides=(2, 2, 1))


class NoReading(TorchDispatchMode):
    """Refuse to bring a value to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, 'a value was read'
        return func(*args, **(kwargs or {}))


def make(act_learn=1.0):
    torch.manual_seed(0)
    net = VanillaNet(ARCH, out_indices=(0, 1, 2))
    net.act_learn = act_learn
    return net


def by_hand(net, x):
    """The formula of section 3.1, layer by layer, with the value in the buffer."""
    value = net.state_dict()['_act_learn']

    def mix(hidden):
        return (1 - value) * hidden.relu() + value * hidden

    x = net.stem2(mix(net.stem1(x)))
    for stage in net.stages:
        x = stage.act(stage.pool(stage.conv2(mix(stage.conv1(x)))))
    return x


@torch.no_grad()
def assert_follows_its_buffer(net):
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(x)[-1], by_hand(net, x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('act_learn', [0.0, 0.3, 1.0])
def test_training_reads_nothing_on_the_host(act_learn):
    net = make().train()
    head = VanillaNetClsHead(5, ARCH['dims'][-1], loss=nn.CrossEntropyLoss()).train()
    image = torch.randn(2, 3, 32, 32)
    with NoReading():
        net.act_learn = head.act_learn = act_learn
        head(net(image)).sum().backward()
    with pytest.raises(AssertionError, match='a value was read'), NoReading():
        net.act_learn  # noqa: B018 - reading it, the mode raises


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('act_learn', [0.3, 1.0])
def test_training_on_a_fake_device(act_learn, device, needs):
    def fake():
        with FakeTensorMode(), torch.device(device):
            nn.Conv2d(3, 4, 3)(torch.randn(2, 3, 8, 8))

    needs(fake)
    with FakeTensorMode(), torch.device(device):
        net = VanillaNet(ARCH, out_indices=(0, 1, 2)).train()
        net.act_learn = act_learn
        assert (net.slope is None) == (act_learn == 1)
        features = net(torch.randn(2, 3, 64, 64))
        assert net.eval().slope is not None  # others may have written
        assert [feature.device.type for feature in features] == [device] * 3
        assert [tuple(feature.shape) for feature in features] == [
            (2, 8, 16, 16),
            (2, 8, 8, 8),
            (2, 16, 4, 4),
        ]
        VanillaNet(ARCH, out_indices=(0, 1, 2), deploy=True).eval()(torch.randn(1, 3, 64, 64))


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_compiling'),
    reason='before torch 2.3 the graph with a slope is kept for a slope of 1',
)
def test_compiled_whole_and_not_again_while_it_rises():
    net = make().train()
    counter = CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    image = torch.randn(2, 3, 32, 32)
    counts = []
    for value in (0.0, 0.1, 0.5, 0.9, 1.0, 1.0):
        net.act_learn = value
        torch.testing.assert_close(compiled(image), copy.deepcopy(net)(image))
        counts.append(counter.frame_count)
    assert counts == [1, 1, 1, 1, 2, 2]


def test_one_costs_no_operation():
    def operations(net):
        with torch.profiler.profile() as profiled:
            net(torch.randn(2, 3, 32, 32))
        return sum('prelu' in event.name for event in profiled.events())

    net = make()
    assert operations(net) == 0
    net.act_learn = 0.5
    assert operations(net) > 0
    net.act_learn = 1.0
    assert operations(net) == 0


def average(wrapper):
    """Return a copy made at 1 and then updated from a net at 0.3, as libraries update."""
    net = make()
    averaged = wrapper(net)
    net.act_learn = 0.3
    averaged.update_parameters(net)
    return averaged.module


def load(net, value):
    net.load_state_dict(dict(net.state_dict(), _act_learn=torch.tensor(value)))
    return net


def write(net, value):
    net.state_dict()['_act_learn'].fill_(value)  # shares memory, as a broadcast in place does
    return net


def write_past_the_version(net, value):
    net.get_buffer('_act_learn').data.fill_(value)  # as DDP and mmengine's averages do
    return net


def half(net):
    net.act_learn = 0.5
    return net


@pytest.mark.parametrize(
    ('made', 'value'),
    [
        (lambda: average(AveragedModel), 0.3),
        (lambda: average(ExponentialMovingAverage), 0.3),
        (lambda: load(make(), 0.4), 0.4),
        (lambda: load(make(0.4), 1.0), 1.0),
        (lambda: write(make(), 0.2), 0.2),
        (lambda: write(make(0.2), 1.0), 1.0),
        (lambda: write_past_the_version(make(), 0.2), 0.2),
        (lambda: write_past_the_version(make(0.2), 1.0), 1.0),
        (lambda: copy.deepcopy(make(0.6)), 0.6),
        (lambda: half(copy.deepcopy(make())), 0.5),
        (lambda: pickle.loads(pickle.dumps(make(0.6))), 0.6),
        (lambda: write(pickle.loads(pickle.dumps(make())), 0.6), 0.6),
        (lambda: make(0.7).double().float(), 0.7),
    ],
)
@pytest.mark.parametrize('training', [True, False])
def test_whoever_writes_is_seen(made, value, training):
    net = made().train(training)
    assert net.act_learn == pytest.approx(value)
    assert_follows_its_buffer(net)
    for change in (write, write_past_the_version):
        change(net, 0.25)
        assert_follows_its_buffer(net)
        net.act_learn = 1.0
        assert_follows_its_buffer(net)


def test_a_functional_call_takes_the_value_it_is_given():
    net = make()
    x = torch.randn(2, 3, 32, 32)
    values = dict(net.state_dict(), _act_learn=torch.tensor(0.0))
    found = torch.func.functional_call(net, values, (x,))[-1]
    torch.testing.assert_close(found, make(0.0)(x)[-1])


def test_initial_weights_follow_the_seed():
    def build():
        torch.manual_seed(3)
        return VanillaNet(ARCH, out_indices=(0, 1, 2)).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[name], second[name]) for name in first)
    weight = VanillaNet(dict(dims=(64, 128), strides=(2,)), (1,)).stages[0].conv2[0].weight
    assert weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)  # Kaiming, fan in
    assert abs(weight.mean().item()) < 0.01


def test_it_may_be_set_before_the_backward_pass():
    net = make(0.3).train()
    loss = net(torch.randn(2, 3, 32, 32))[-1].square().mean()
    net.act_learn = 0.4
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_writes_past_the_version_are_seen_in_bfloat16():
    net = make().bfloat16().eval()
    assert net.slope is None
    write_past_the_version(net, 0.5)
    assert net.slope == 0.5


def test_a_compiled_average_follows_its_source():
    net = make().eval()
    averaged = AveragedModel(net, use_buffers=True).eval()
    compiled = torch.compile(averaged, backend='eager')
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[-1], net(x)[-1])
        net.act_learn = 0.2
        averaged.update_parameters(net)
        torch.testing.assert_close(compiled(x)[-1], averaged(x)[-1])
        assert not torch.allclose(compiled(x)[-1], make()(x)[-1], atol=1e-3)
