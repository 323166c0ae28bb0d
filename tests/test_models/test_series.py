"""Series activation in other nets: as a registered layer, and in the place of ReLUs."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmcv.cnn import ConvModule, build_activation_layer
from mmengine.registry import MODELS
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmvanilla.errors import UserError
from mmvanilla.models import SeriesActivation, VanillaNet, fuse, join_convs, replace_relus

ARCH = dict(dims=(8, 16, 16, 32), strides=(2, 1, 2))


def series(x, weight, norm):
    """The formula of section 3.2, window by window."""
    n = weight.shape[-1] // 2
    padded = F.pad(x.relu(), (n, n, n, n))
    height, width = x.shape[-2:]
    return norm(
        sum(
            weight[:, 0, i, j].view(1, -1, 1, 1) * padded[:, :, i : i + height, j : j + width]
            for i in range(2 * n + 1)
            for j in range(2 * n + 1)
        )
    )


def test_conv_module_takes_it(trained):
    cfg = dict(type='SeriesActivation', channels=6, act_num=2)
    torch.manual_seed(0)
    layer = trained(ConvModule(3, 6, 3, norm_cfg=dict(type='BN'), act_cfg=cfg)).eval()
    nn.init.normal_(layer.activate.weight)
    x = torch.randn(2, 3, 9, 8)
    expected = series(layer.norm(layer.conv(x)), layer.activate.weight, layer.activate.bn)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    fuse(layer)
    assert isinstance(layer.activate.bn, nn.Identity)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def test_defaults():
    act = build_activation_layer(dict(type='SeriesActivation', channels=5))
    assert act.weight.shape == (5, 1, 7, 7)
    assert isinstance(act.bn, nn.BatchNorm2d)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'channels of SeriesActivation is None, expected an integer of at least 1'),
        (dict(channels=0), 'channels of SeriesActivation is 0'),
        (dict(channels=4, act_num=-1), 'act_num of SeriesActivation is -1'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        ConvModule(3, 4, 1, act_cfg=dict(type='SeriesActivation', **options))


def test_untrained_activation_is_not_fused():
    act = nn.Sequential(SeriesActivation(4))
    with pytest.raises(UserError, match='0.bn cannot be fused: it has never seen a batch'):
        fuse(act)


def as_relus(net):
    """Make every series activation compute a ReLU alone."""
    for module in net.modules():
        if isinstance(module, SeriesActivation):
            n = module.weight.shape[-1] // 2
            module.weight.data.zero_()
            module.weight.data[..., n, n] = (1 + module.bn.eps) ** 0.5
    return net


@pytest.mark.parametrize(
    ('build', 'count'),
    # A ResNet-50 has a ReLU behind its stem, and calls one thrice in each of its 16 blocks.
    [(torchvision.models.alexnet, 5), (torchvision.models.resnet50, 49)],
)
def test_replaces_every_relu(build, count, trained):
    torch.manual_seed(0)
    net = trained(build(num_classes=10)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 80, 80)
    swapped = replace_relus(net, act_num=1, image_size=80)
    assert swapped.training
    acts = [module for module in swapped.modules() if isinstance(module, SeriesActivation)]
    assert len(acts) == count
    assert not any(isinstance(m, nn.ReLU) for n, m in swapped.named_modules() if 'cl' not in n)
    for name, value in state.items():
        assert torch.equal(swapped.state_dict()[name], value), name  # batch norms included
    expected = net.eval()(x)
    torch.testing.assert_close(as_relus(swapped).eval()(x), expected, atol=1e-5, rtol=1e-4)
    acts[-1].weight.data.normal_()
    assert not torch.allclose(swapped(x), expected, atol=1e-3)


class Functional(nn.Module):
    """A net that calls its ReLUs as functions and methods."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return torch.relu(F.relu(self.conv(x)).relu())


class Branching(Functional):
    """A net whose way depends on the image."""

    def forward(self, x):
        return x.relu() if x.mean() > 0 else x


def test_functions_and_methods():
    acts = [m for m in replace_relus(Functional()).modules() if isinstance(m, SeriesActivation)]
    assert [len(act.weight) for act in acts] == [4, 4, 4]


def test_nets_it_cannot_change():
    with pytest.raises(UserError, match='the ReLUs of Branching cannot be found by tracing it'):
        replace_relus(Branching())
    with pytest.raises(UserError, match='Conv2d has no ReLU on'):
        replace_relus(nn.Conv2d(3, 4, 1))
    with pytest.raises(UserError, match='with an image of 16 x 16 pixels'):
        replace_relus(torchvision.models.alexnet(), image_size=16)


def two_ideas(**options):
    return MODELS.build(
        dict(type='TwoIdeas', net=dict(type='PlainNet', arch=ARCH), image_size=64, **options)
    )


def test_plain_net_with_both_ideas_is_a_vanillanet(trained):
    """Its parameters, in the order of the layers, are a VanillaNet's; so is what it computes."""
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
