"""FLOP counters agree with a count by hand, in all forms and modes."""

import contextlib
import io
from itertools import pairwise

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

from mmvanilla import VanillaNet

FlopCountAnalysis = pytest.importorskip('fvcore.nn').FlopCountAnalysis
torchinfo = pytest.importorskip('torchinfo')

DIMS, STRIDES = (8, 8, 12, 16, 24), (1, 2, 2, 2)
SIDE = 64
SHAPE = (3, SIDE, SIDE)

forms = pytest.mark.parametrize('deploy', [False, True])
modes = pytest.mark.parametrize('train', [False, True])
grads = pytest.mark.parametrize('grad', [False, True])
recomputes = pytest.mark.parametrize('with_cp', [False, True])


def by_hand(deploy, act_num=3):
    """Return the multiply-adds of dense and depthwise convolutions for one image."""
    side, window = SIDE // 4, (2 * act_num + 1) ** 2
    first = 0 if deploy else DIMS[0] ** 2
    dense = (3 * 4 * 4 * DIMS[0] + first) * side**2
    depthwise = DIMS[0] * window * side**2
    for (before, after), stride in zip(pairwise(DIMS), STRIDES, strict=True):
        first = 0 if deploy else before**2
        dense += (before * after + first) * side**2
        side //= stride
        depthwise += after * window * side**2
    return dense, depthwise


def build(deploy, train=False, **options):
    return VanillaNet(dict(dims=DIMS, strides=STRIDES), deploy=deploy, **options).train(train)


@grads
@forms
@modes
@recomputes
def test_mmengine_counts_the_same_in_every_mode(deploy, train, grad, with_cp):
    net = build(deploy, train, with_cp=with_cp)
    with torch.set_grad_enabled(grad):
        counts = FlopAnalyzer(net, torch.randn(1, *SHAPE)).by_operator()
    assert counts['conv'] == sum(by_hand(deploy))


@grads
def test_get_model_complexity_info_of_a_fresh_deploy_net(grad):
    net = build(True, train=True)
    with torch.set_grad_enabled(grad):
        info = get_model_complexity_info(net, SHAPE, show_table=False, show_arch=False)
    assert info['flops'] == sum(by_hand(True))
    assert info['params'] == sum(p.numel() for p in net.parameters())


def test_a_net_without_its_last_levels_counts_as_a_shorter_one():
    shorter = VanillaNet(dict(dims=DIMS[:3], strides=STRIDES[:2]), out_indices=(1,), deploy=True)
    infos = [
        get_model_complexity_info(net.eval(), SHAPE, show_table=False, show_arch=False)
        for net in (build(True, out_indices=(1,)), shorter)
    ]
    for name in ('flops', 'params', 'activations'):
        assert infos[0][name] == infos[1][name]


@grads
@forms
@modes
def test_fvcore_counts_the_same_in_every_mode(deploy, train, grad):
    net = build(deploy, train)
    with torch.set_grad_enabled(grad):
        counts = FlopCountAnalysis(net, torch.randn(2, *SHAPE)).by_operator()
    assert counts['conv'] == 2 * sum(by_hand(deploy))


@grads
@forms
@modes
def test_torch_counts_the_same_in_every_mode(deploy, train, grad):
    net = build(deploy, train)
    if deploy:
        net.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(grad):
        net(torch.randn(2, *SHAPE))
    assert counter.get_total_flops() == 2 * 2 * sum(by_hand(deploy))


def test_torch_counts_a_backward_pass():
    """Each convolution counts twice."""
    net = build(False, True).stages[-1].act
    x = torch.randn(2, DIMS[-1], 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = net(x)
        forward = counter.get_total_flops()
        net.weight.requires_grad_()
        out.sum().backward()
    assert forward == 2 * 2 * DIMS[-1] * 49 * 64
    assert counter.get_flop_counts()['Global'][torch.ops.aten.convolution] == 2 * forward


@forms
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_torchinfo_sums_up_the_layers(deploy, mode):
    net = build(deploy)
    if deploy:
        net.requires_grad_(False)
    with contextlib.redirect_stdout(io.StringIO()):
        summary = torchinfo.summary(net, (2, *SHAPE), mode=mode)
    assert summary.total_params == sum(p.numel() for p in net.parameters())
    convs = [layer for layer in summary.summary_list if layer.class_name == 'Conv2d']
    biases = sum(2 * layer.output_size[1] * layer.output_size[-1] ** 2 for layer in convs)
    assert sum(layer.macs for layer in convs) - biases == 2 * by_hand(deploy)[0]
