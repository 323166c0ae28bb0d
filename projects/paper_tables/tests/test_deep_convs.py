"""Convolutions split for deep training: what they compute, fused and not, and which are refused."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmengine.registry import MODELS
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmvanilla.engine.twins import add_twins
from mmvanilla.errors import UserError
from mmvanilla.models import fuse
from projects.paper_tables.deep_convs import DeepConv, join_convs, split_convs


def distance(one, other):
    return ((one - other).norm() / other.norm()).item()


CONVS = {
    '1x1': dict(kernel_size=1),
    '1x1 strided': dict(kernel_size=1, stride=2, bias=False),
    '1x1 padded': dict(kernel_size=1, padding=1),
    '3x3': dict(kernel_size=3, padding=1),
    '3x3 same': dict(kernel_size=3, padding='same', bias=False),
    '11x5 strided': dict(kernel_size=(11, 5), stride=(4, 1), padding=(2, 0)),
    'reflecting': dict(kernel_size=3, padding=1, padding_mode='reflect'),
}


@pytest.mark.parametrize('options', CONVS.values(), ids=CONVS)
@pytest.mark.parametrize('norm_cfg', [None, dict(type='BN', eps=0.1)], ids=['bare', 'BN'])
def test_split_and_fusion_keep_the_function(options, norm_cfg, trained):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 10, **options).double().eval()
    x = torch.randn(2, 6, 14, 17, dtype=torch.double)
    deep = DeepConv(conv, norm_cfg)
    torch.testing.assert_close(deep(x), conv(x))
    # A split that hands all to one of the two would pass the above; at 0 a ReLU stands between.
    for parameter in deep.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    trained(deep)
    expected = deep.conv2(deep.norm(deep.conv1(x)))
    deep.act_learn = 0
    torch.testing.assert_close(deep(x), deep.conv2(F.relu(deep.norm(deep.conv1(x)))))
    assert distance(deep(x), expected) > 0.01
    with pytest.raises(UserError, match='act_learn of DeepConv is 0, expected 1'):
        fuse(deep)
    deep.act_learn = 1
    fuse(deep)
    assert [name for name, _ in deep.named_parameters()] == ['conv.weight', 'conv.bias']
    torch.testing.assert_close(deep(x), expected)
    assert deep.conv.weight.shape == conv.weight.shape


def test_channels_between_are_those_of_vanillanet():
    assert DeepConv(nn.Conv2d(6, 10, 1)).conv2.weight.shape == (10, 6, 1, 1)
    assert DeepConv(nn.Conv2d(6, 10, 4, 4)).conv2.weight.shape == (10, 10, 1, 1)


@pytest.mark.parametrize(
    ('layer', 'reason'),
    [
        (nn.Conv2d(4, 4, 3, groups=2), 'has 2 groups'),
        (nn.Conv2d(4, 4, 3, dilation=(1, 2)), r'has a dilation of \(1, 2\)'),
        (nn.ConvTranspose2d(4, 4, 3), 'is a ConvTranspose2d'),
        (nn.Linear(4, 4), 'is a Linear'),
    ],
)
def test_what_cannot_be_split(layer, reason):
    with pytest.raises(UserError, match=f'cannot be trained deep: it {reason}, expected an') as got:
        DeepConv(layer)
    assert '\n' not in str(got.value)
    assert list(split_convs(nn.Sequential(layer))) == [layer]


def test_untrained_norm_is_named():
    net = split_convs(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(UserError, match='0.norm cannot be fused: it has never seen a batch'):
        join_convs(net)
    assert isinstance(net[0], DeepConv)
    assert not net[0].deploy


def test_attributes_follow():
    conv = nn.Conv2d(3, 4, 3, bias=False).to(torch.bfloat16).requires_grad_(False).eval()
    deep = DeepConv(conv)
    assert {p.dtype for p in deep.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in deep.parameters())
    assert not deep.norm.training
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    net = split_convs(nn.Sequential(conv))
    net(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16))
    assert seen == [1]


def nets():
    """Full nets of torchvision, which knows nothing of this package, and one of mmpretrain."""
    import mmpretrain.models  # noqa: F401 - registers AlexNet

    return {
        'AlexNet': (lambda: torchvision.models.alexnet().features, 5),
        'ResNet-50': (lambda: torchvision.models.resnet50(num_classes=10), 53),
        'AlexNet of mmpretrain': (lambda: MODELS.build(dict(type='mmpretrain.AlexNet')), 5),
    }


@pytest.mark.parametrize('name', ['AlexNet', 'ResNet-50', 'AlexNet of mmpretrain'])
def test_split_train_and_fuse(name, trained):
    """Exact to 1e-5 at act_learn 1: after the split, and after steps of deep training."""
    build, convs = nets()[name]
    torch.manual_seed(0)
    net = build()
    names = [key for key, _ in net.named_modules()]
    output = (lambda x: net(x)[0]) if 'mmpretrain' in name else (lambda x: net(x))
    image = torch.randn(2, 3, 64, 64)
    trained(net).eval()
    before = output(image)
    split_convs(net)
    deep = [module for module in net.modules() if isinstance(module, DeepConv)]
    assert len(deep) == convs
    assert distance(output(image), before) < 1e-5

    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    net.train()
    for act_learn in (0, 0.5, 1):
        for module in deep:
            module.act_learn = act_learn
        optimizer.zero_grad()
        output(image).square().mean().backward()
        optimizer.step()
    for module in deep:
        trained(module)
    net.eval()
    with torch.no_grad():
        expected = output(image)
        assert distance(expected, before) > 0.01
        join_convs(net)
        assert distance(output(image), expected) < 1e-5
    assert [key for key, _ in net.named_modules()] == names


def test_a_pruned_convolution_is_not_split():
    conv = nn.utils.prune.l1_unstructured(nn.Conv2d(4, 4, 3), 'weight', 0.5)
    assert list(split_convs(nn.Sequential(conv))) == [conv]
    with pytest.raises(UserError, match='is pruned'):
        DeepConv(conv)


def test_a_shared_convolution_stays_shared(trained):
    conv = nn.Conv2d(4, 4, 1)
    net = nn.Sequential(nn.Sequential(conv, conv), conv).eval()
    x = torch.randn(1, 4, 5, 5)
    expected = net(x)
    split_convs(net)
    assert isinstance(net[1], DeepConv)
    assert net[0][0] is net[0][1] is net[1]
    torch.testing.assert_close(net(x), expected)
    expected = trained(net)(x)
    join_convs(net)
    assert type(net[1]) is nn.Conv2d
    assert net[0][0] is net[0][1] is net[1]
    torch.testing.assert_close(net(x), expected)


def test_joining_drops_no_hook_inside():
    net = split_convs(nn.Sequential(nn.Conv2d(3, 4, 3)), None)
    net[0].conv1.register_forward_hook(lambda _module, _args, out: 2 * out)
    with pytest.raises(UserError, match='0.conv1 to 0.conv2 cannot be fused'):
        join_convs(net)
    assert isinstance(net[0], DeepConv)


def test_jit_script_compiles_a_fused_convolution():
    model = nn.Sequential(DeepConv(nn.Conv2d(3, 8, 3), norm_cfg=None))
    with pytest.raises(UserError, match='DeepConv.*trace'):
        torch.jit.script(model)
    fuse(model)
    x = torch.randn(2, 3, 9, 10)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
    assert isinstance(model[0], DeepConv)


def test_a_convolution_is_split_on_its_own_device():
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 9, 10)
    with torch.device('meta'):
        split = DeepConv(conv).eval()
    torch.testing.assert_close(split(x), conv(x), rtol=1e-4, atol=1e-4)


def test_new_weights_drop_the_twin_of_a_split_convolution(trained):
    net = trained(split_convs(nn.Sequential(nn.Conv2d(3, 4, 3)))).eval()
    x = torch.randn(2, 3, 9, 10)
    expected = net(x)
    add_twins(net)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
    assert net[0].twin is not None
    net.load_state_dict(net.state_dict())
    assert torch.equal(net(x), expected)


def test_without_memory():
    """Fake tensors and meta ones have shapes only."""
    for mode in (FakeTensorMode, lambda: torch.device('meta')):
        with mode():
            module = DeepConv(nn.Conv2d(3, 4, 3)).eval()
            assert module(torch.empty(2, 3, 9, 10)).shape == (2, 4, 7, 8)
