"""The depthwise convolution against PyTorch's, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from mmvanilla.ops import depthwise_conv
from mmvanilla.ops.depthwise_conv import depthwise_conv2d


def gradients(call, *inputs):
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    out = call(*inputs)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out.float() * weights).sum().backward()
    return [out.detach(), *(value.grad for value in inputs)]


def library(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def make(shape, side):
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    sizes = (shape, (channels, 1, side, side), (channels,))
    return [torch.randn(size, generator=generator) for size in sizes]


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('group', [1, 2**22])  # bytes: groups as small as can be, and all at once
@pytest.mark.parametrize(
    ('shape', 'side'),
    [((1, 70, 9, 11), 9), ((3, 40, 12, 7), 7), ((2, 5, 1, 1), 3), ((2, 33, 3, 20), 1)],
)
def test_gradients_are_those_of_the_library(shape, side, group, layout, monkeypatch):
    monkeypatch.setattr(depthwise_conv, 'GROUP_BYTES', group)
    x, weight, bias = make(shape, side)
    x = x.contiguous(memory_format=layout)
    exact = gradients(library, x.double(), weight.double(), bias.double())
    for mine, its in zip(gradients(depthwise_conv2d, x, weight, bias), exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - its).norm() < 1e-5 * its.norm()


def test_under_autocast_as_the_library():
    x, weight, bias = make((2, 40, 10, 14), 9)
    exact = gradients(library, x.double(), weight.double(), bias.double())
    with torch.autocast('cpu', torch.bfloat16):
        mine = gradients(depthwise_conv2d, x, weight, bias)
        theirs = gradients(library, x, weight, bias)
    assert mine[0].dtype == torch.bfloat16
    assert [value.dtype for value in mine] == [value.dtype for value in theirs]
    # On torch 2.1 the library errs less than elsewhere; ours stays within the rounding of the type.
    rounding = torch.finfo(torch.bfloat16).eps / 2 if torch.__version__ < '2.4' else 0.0
    for own, its, reference in zip(mine, theirs, exact, strict=True):
        error, least = (own - reference).norm(), reference.norm() * rounding
        assert error < max(1.3 * (its - reference).norm(), least)


def test_only_what_needs_a_gradient_gets_one():
    x, weight, bias = make((2, 6, 8, 8), 5)
    weight.requires_grad_()
    depthwise_conv2d(x, weight, bias).sum().backward()
    assert x.grad is None
    assert bias.grad is None
    expected = torch.autograd.grad(library(x, weight, bias).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-4)
