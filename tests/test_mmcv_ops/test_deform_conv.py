import torch
import torch.nn.functional as F
from mmcv.ops import deform_conv2d, modulated_deform_conv2d


def random_case(device, dtype=torch.double, batch=2):
    torch.manual_seed(0)
    like = dict(dtype=dtype, device=device)
    x = torch.randn(batch, 4, 5, 4, **like)
    offset = torch.randn(batch, 2 * 2 * 9, 3, 2, **like)
    mask = torch.rand(batch, 2 * 9, 3, 2, **like)
    weight, bias = torch.randn(6, 2, 3, 3, **like), torch.randn(6, **like)
    return x, offset, mask, weight, bias


GEOMETRY = dict(stride=2, padding=1, dilation=1, groups=2)


def unmodulated(x, offset, weight):
    return deform_conv2d(x, offset, weight, 2, 1, 1, 2, 2)


def modulated(x, offset, mask, weight, bias):
    return modulated_deform_conv2d(x, offset, mask, weight, bias, 2, 1, 1, 2, 2)


def test_without_displacement_it_is_a_convolution(device):
    x, offset, mask, weight, bias = random_case(device)
    still = torch.zeros_like(offset)
    torch.testing.assert_close(unmodulated(x, still, weight), F.conv2d(x, weight, **GEOMETRY))
    torch.testing.assert_close(
        modulated(x, still, torch.full_like(mask, 0.5), weight, bias),
        F.conv2d(x, weight / 2, bias, **GEOMETRY),
    )


def test_a_whole_displacement_shifts_the_image(device):
    x, offset, _, weight, _ = random_case(device)
    shift = torch.zeros_like(offset)
    shift[:, 0::2] = 1  # dy
    shift[:, 1::2] = -2  # dx
    moved = F.pad(x, (2, -2, -1, 1))
    # Inside, since the moved image lost what the displaced taps still see beyond its edge.
    inside = (..., slice(1, 2), slice(1, 2))
    torch.testing.assert_close(
        unmodulated(x, shift, weight)[inside], F.conv2d(moved, weight, **GEOMETRY)[inside]
    )


def test_gradients(device):
    x, offset, mask, weight, bias = (t.requires_grad_() for t in random_case(device, batch=1))
    tolerance = 1e-10 if device.type == 'cuda' else 0.0
    assert torch.autograd.gradcheck(unmodulated, (x, offset, weight), nondet_tol=tolerance)
    everything = (x, offset, mask, weight, bias)
    assert torch.autograd.gradcheck(modulated, everything, nondet_tol=tolerance)


def test_layout_does_not_matter(device):
    tensors = random_case(device)
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    torch.testing.assert_close(modulated(*strided), modulated(*tensors))
    x = tensors[0].contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.autograd.grad(modulated(x, *tensors[1:]).sum(), x)[0]
    y = tensors[0].requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(modulated(y, *tensors[1:]).sum(), y)[0])


def test_autocast(device):
    """Under autocast the offsets come in half precision and mmcv casts the rest to it."""
    x, offset, mask, weight, bias = random_case(device, torch.float32)
    x, weight, bias = x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    rounded = [t.bfloat16().float() for t in (x, offset, mask, weight, bias)]
    with torch.autocast(device.type, torch.bfloat16):
        out = modulated(x, offset.bfloat16(), mask, weight, bias)
        other = unmodulated(x, offset.bfloat16(), weight)
        (out.float().sum() + other.float().sum()).backward()
    assert out.dtype == other.dtype == torch.bfloat16
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(out, modulated(*rounded).bfloat16())


def test_offsets_of_a_larger_map_are_read_from_their_beginning(device):
    """As mmdet's DyHead passes them, and mmcv's operator takes them."""
    x, offset, mask, weight, bias = random_case(device)
    more = [torch.randn(2, t.shape[1], 6, 4, dtype=t.dtype, device=device) for t in (offset, mask)]
    for large, small in zip(more, (offset, mask), strict=True):
        large.flatten(1)[:, : small[0].numel()] = small.flatten(1)
        large.requires_grad_()
    result = modulated(x, *more, weight, bias)
    torch.testing.assert_close(result, modulated(x, offset, mask, weight, bias))
    small = [offset.requires_grad_(), mask.requires_grad_()]
    expected = torch.autograd.grad(modulated(x, *small, weight, bias).sin().sum(), small)
    for large, grad in zip(torch.autograd.grad(result.sin().sum(), more), expected, strict=True):
        flat, number = large.flatten(1), grad[0].numel()
        torch.testing.assert_close(flat[:, :number], grad.flatten(1))
        assert not flat[:, number:].any()
