"""Nets with and without the two ideas."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmvanilla import UserError, VanillaNet
from projects.paper_tables.deep_convs import join_convs
from projects.paper_tables.nets import PlainNet

ARCH = dict(dims=(8, 16, 16, 32), strides=(2, 1, 2))


def two_ideas(**options):
    return MODELS.build(
        dict(type='TwoIdeas', net=dict(type='PlainNet', arch=ARCH), image_size=64, **options)
    )


def test_plain_net_with_both_ideas_is_a_vanillanet(trained):
    """Parameters in the order of layers and outputs are those of a VanillaNet."""
    torch.manual_seed(0)
    net = trained(two_ideas()).eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    reference = VanillaNet(ARCH, out_indices=(0, 1, 2))
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == sum(parameter.numel() for parameter in reference.parameters())
    x = torch.randn(2, 3, 64, 64)
    expected = net(x)[0]

    join_convs(net)
    deployed = VanillaNet(ARCH, out_indices=(0, 1, 2), deploy=True).eval()
    layers = [net.net.stem, *(net.net.get_submodule(f'stages.{i}').conv for i in range(3))]
    pairs = [deployed.stem, *((stage.conv, stage.act) for stage in deployed.stages)]
    for i, (layer, (conv, act)) in enumerate(zip(layers, pairs, strict=True)):
        source = net.net.get_submodule(f'relu_{i}')
        fused = fuse_conv_bn_eval(*layer.children())
        conv.load_state_dict(fused.state_dict())
        act.load_state_dict(source.state_dict())
    torch.testing.assert_close(deployed(x)[-1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('deep', [False, True])
@pytest.mark.parametrize('activation', [False, True])
def test_ideas_are_switched_by_themselves(deep, activation):
    net = two_ideas(deep_training=deep, series_activation=activation)
    kinds = [type(module).__name__ for module in net.modules()]
    assert kinds.count('DeepConv') == 4 * deep
    assert kinds.count('SeriesActivation') == 4 * activation
    assert kinds.count('ReLU') == 4 * (not activation)


@pytest.mark.parametrize('shortcut', ['before_act', 'after_act'])
def test_shortcuts(shortcut):
    net = PlainNet(ARCH, shortcut).eval()
    x = torch.rand(2, 8, 4, 4) - 0.5
    stage = net.stages[0]
    y, s = F.max_pool2d(stage.conv(x), 2), torch.cat([F.max_pool2d(x, 2)] * 2, 1)
    expected = F.relu(y + s) if shortcut == 'before_act' else F.relu(y) + s
    torch.testing.assert_close(stage(x), expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(shortcut='both'), "shortcut is 'both', expected one of"),
        (dict(arch='13-x1.5-ada'), 'expected one without'),
        (dict(arch=dict(dims=(8, 12), strides=(2,)), shortcut='after_act'), 'expected each to be'),
    ],
)
def test_plain_net_refuses(options, message):
    with pytest.raises(UserError, match=message):
        PlainNet(**options)
