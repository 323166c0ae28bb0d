"""A depthwise convolution with a fast backward pass on the CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from ..backports import COMPILES, MaybeTensor, autocast_dtype, is_compiling, is_traced

GROUP_BYTES = 2**22  # of planes that are convolved together; should fit into the cache
VECTORS = 32  # planes; groups of a multiple fill the processor's vectors


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: MaybeTensor = None) -> Tensor:
    """Convolve every channel with its own window, at stride 1 and with the same output size.

    On the CPU the gradient of the weight is computed as a depthwise convolution, of the input with
    the output's gradient. With large windows PyTorch's own gradient takes 2 to 10 times as long.
    Tracing, export and FLOP counters see a usual convolution. Gradients of any order, forward mode
    and vmap work as in PyTorch.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k), k odd.
        bias: (C).

    Returns:
        (N, C, H, W).
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 - the compiler skips this block only
        if _trains_on_cpu(x, weight) and (COMPILES or not is_compiling()):
            return _fast_backward(x, weight, bias)
    return _conv2d(x, weight, bias)


def channels_last(x: Tensor) -> Tensor:
    """Return (N, C, H, W) with its channels adjacent in memory."""
    if torch.jit.is_tracing() or is_compiling():
        return x.contiguous(memory_format=torch.channels_last)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)  # the same; works under vmap


def _conv2d(x: Tensor, weight: Tensor, bias: MaybeTensor) -> Tensor:
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight, bias, padding=(padding, padding), groups=len(weight))


def _trains_on_cpu(x: Tensor, weight: Tensor) -> bool:
    """Return whether a faster backward pass is possible and may be needed."""
    return (
        x.device.type == 'cpu'
        and weight.requires_grad
        and torch.is_grad_enabled()
        and not is_traced()
        and x.numel() > 0
    )


def _fast_backward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if dtype := autocast_dtype('cpu'):
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    # torch.compile does not support functions with a forward mode.
    return (_DepthwiseConv2d if is_compiling() else _WithForwardMode).apply(x, weight, bias)


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _conv2d(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        padding = weight.shape[-1] // 2
        grad_x = None
        if need_x:
            grad_x = conv2d_input(x.shape, weight, grad, padding=padding, groups=len(weight))
        grad_weight = _grad_weight(x, grad, padding).to(weight.dtype) if need_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if need_bias else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, int]:
        return torch.vmap(_conv2d, in_dims)(*inputs), 0


class _WithForwardMode(_DepthwiseConv2d):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _DepthwiseConv2d.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dweight: Tensor | None, dbias: Tensor | None) -> Any:
        x, weight = ctx.saved_tensors
        terms = [] if dx is None else [_conv2d(dx, weight, None)]
        terms += [] if dweight is None else [_conv2d(x, dweight, None)]
        terms += [] if dbias is None else [dbias[:, None, None]]
        return sum(terms)


def _grad_weight(x: Tensor, grad: Tensor, padding: int) -> Tensor:
    """Return the gradient (C, 1, k, k) of the weight, summed over the batch in float32 at least."""
    batch, channels, height, width = x.shape
    size = GROUP_BYTES // (height * width * x.element_size() * VECTORS) * VECTORS or VECTORS
    planes = x.reshape(1, batch * channels, height, width).split(size, 1)
    windows = grad.reshape(batch * channels, 1, height, width).split(size)
    groups = [
        F.conv2d(channels_last(plane), window, padding=padding, groups=len(window))
        for plane, window in zip(planes, windows, strict=True)
    ]
    side = 2 * padding + 1
    each = torch.cat(groups, 1).view(batch, channels, 1, side, side)
    return each.sum(0, dtype=torch.promote_types(each.dtype, torch.float32))
