"""Deformable convolution, without and with modulation, on torchvision's kernels.

N, C, H, W are the sizes of the input, O the output channels, H', W' the output size, kH, kW the
kernel size and D the number of deformable groups. As in torchvision, offsets come as (dy, dx)
per kernel position. Each function fills the tensors mmcv allocated for its results; ``columns``
and ``ones`` are buffers of the compiled version, unused here.
"""

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .float32 import at_least_float32


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolve at displaced positions (https://arxiv.org/abs/1703.06211).

    Args:
        input: (N, C, H, W).
        weight: (O, C / group, kH, kW).
        offset: Displacements (N, 2 D kH kW, H', W') in pixels.
        output: (N, O, H', W'), filled with the result.
        columns: Unused.
        ones: Unused.
        kW: Kernel width; like kH, known from ``weight``.
        kH: Kernel height.
        dW: Horizontal stride.
        dH: Vertical stride.
        padW: Zeros left and right.
        padH: Zeros above and below.
        dilationW: Horizontal dilation.
        dilationH: Vertical dilation.
        group: Groups of channels convolved separately.
        deformable_group: D, groups of channels displaced separately.
        im2col_step: Unused; torchvision chooses how many images it takes at once.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    _forward(input, weight, offset, None, None, output, geometry)


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill ``gradInput`` and ``gradOffset`` from ``gradOutput`` (N, O, H', W').

    The other arguments are those of :func:`deform_conv_forward`.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, geometry)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Fill ``gradWeight`` from ``gradOutput`` (N, O, H', W'), times ``scale``.

    The other arguments are those of :func:`deform_conv_forward`. torchvision computes all
    gradients at once, so those of :func:`deform_conv_backward_input` are computed again here.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The gradient of the weights does not depend on them.
    grads = _backward(gradOutput, input, gradWeight, offset, None, geometry)
    gradWeight.copy_(scale * grads[1])


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolve at displaced and weighted positions (https://arxiv.org/abs/1811.11168).

    Args:
        input: (N, C, H, W).
        weight: (O, C / group, kH, kW).
        bias: (O,), or empty without bias.
        ones: Unused.
        offset: Displacements (N, 2 D kH kW, H', W') in pixels.
        mask: Weight of each position (N, D kH kW, H', W').
        output: (N, O, H', W'), filled with the result.
        columns: Unused.
        kernel_h: Kernel height; like kernel_w, known from ``weight``.
        kernel_w: Kernel width.
        stride_h: Vertical stride.
        stride_w: Horizontal stride.
        pad_h: Zeros above and below.
        pad_w: Zeros left and right.
        dilation_h: Vertical dilation.
        dilation_w: Horizontal dilation.
        group: Groups of channels convolved separately.
        deformable_group: D, groups of channels displaced separately.
        with_bias: Whether ``bias`` is added.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    _forward(input, weight, offset, mask, bias if with_bias else None, output, geometry)


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill the five gradients from ``grad_output`` (N, O, H', W').

    The other arguments are those of :func:`modulated_deform_conv_forward`.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    grads = _backward(grad_output, input, weight, offset, mask, geometry)
    # torchvision's order, which has the bias last.
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, grad in zip(targets[: 5 if with_bias else 4], grads, strict=False):
        target.copy_(grad)


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    output: Tensor,
    geometry: tuple[int, ...],
) -> None:
    tensors = _operands(input, weight, offset, mask, bias)
    output.copy_(torch.ops.torchvision.deform_conv2d(*tensors, *geometry, mask is not None))


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return the gradients of input, weight, offset, mask and bias."""
    tensors = _operands(input, weight, offset, mask, None)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        at_least_float32(grad_output), *tensors, *geometry, mask is not None
    )
    grads[2].masked_fill_(_outside(tensors[2], weight.shape[2:], geometry), 0)
    return grads


def _outside(offset: Tensor, kernel_size: torch.Size, geometry: tuple[int, ...]) -> Tensor:
    """Return which offsets (N, 2 D kH kW, H', W') reach a cell or more above or left of the map.

    Exactly one cell outside, where padding of 1 puts the first taps as long as offsets are 0,
    torchvision gives an offset the slope towards the map, mmcv none.
    """
    displaced = offset.unflatten(1, (-1, *kernel_size, 2))
    dy, dx = displaced.unbind(4)
    y = _taps(kernel_size[0], offset.size(2), *geometry[0:6:2])[:, None, :, None].to(dy)
    x = _taps(kernel_size[1], offset.size(3), *geometry[1:6:2])[:, None, :].to(dx)
    outside = (y + dy <= -1) | (x + dx <= -1)
    return outside.unsqueeze(4).expand_as(displaced).reshape(offset.shape)


def _taps(kernel: int, outputs: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Return the positions (kernel, outputs) along one axis that are read without displacement."""
    return torch.arange(kernel)[:, None] * dilation + torch.arange(outputs) * stride - padding


def _operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """Return torchvision's tensor arguments, which stand in for a missing mask or bias."""
    mask = input.new_zeros(len(input), 1) if mask is None else mask
    bias = input.new_zeros(len(weight)) if bias is None else bias
    return [at_least_float32(tensor) for tensor in (input, weight, offset, mask, bias)]
