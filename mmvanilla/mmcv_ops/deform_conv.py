"""Deformable convolution, without and with modulation, on torchvision's kernels.

Input (N, C, H, W), weight (O, C / group, kH, kW) and bias (O,) are those of a convolution; output
is (N, O, H', W'). With D deformable groups, offset (N, 2 D kH kW, H', W') has the displacement of
each kernel position in pixels, (dy, dx), and mask (N, D kH kW, H', W') its weight. Gradients have
the shapes of their tensors.

Each function fills tensors that mmcv allocated for results; ``buffers`` are for compiled mmcv
and unused here. The geometry has mmcv's keywords: stride, padding, dilation and groups. The kernel
size (known from the weight) and ``im2col_step`` (torchvision's choice) are ignored.
"""

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from .common import at_least_float32

# mmcv's names of the geometry, in torchvision's order.
_GROUPS = ('group', 'deformable_group')
_UNMODULATED = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', *_GROUPS)
_MODULATED = ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w', *_GROUPS)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **geometry: int
) -> None:
    """Convolve at displaced positions into ``output`` (https://arxiv.org/abs/1703.06211)."""
    tensors = _operands(input, weight, offset, None, None)
    output.copy_(torch.ops.torchvision.deform_conv2d(*tensors, *_in_order(geometry), False))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    *buffers: Tensor,
    **geometry: int,
) -> None:
    """Fill ``gradInput`` and ``gradOffset`` from ``gradOutput``."""
    grads = _backward(gradOutput, input, weight, offset, None, geometry)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    *buffers: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Fill ``gradWeight`` from ``gradOutput``, times ``scale``.

    torchvision computes all gradients at once, so this repeats ``deform_conv_backward_input``.
    """
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
    with_bias: bool,
    **geometry: int,
) -> None:
    """Convolve at displaced, weighted positions into ``output`` (https://arxiv.org/abs/1811.11168).

    ``bias`` is added if ``with_bias``, else it may be empty.
    """
    size = output.shape[2:]
    offset, mask = _read(offset, size), _read(mask, size)
    tensors = _operands(input, weight, offset, mask, bias if with_bias else None)
    output.copy_(torch.ops.torchvision.deform_conv2d(*tensors, *_in_order(geometry), True))


def modulated_deform_conv_backward(*tensors: Tensor, with_bias: bool, **geometry: int) -> None:
    """Fill the gradients of input, weight, offset and mask, and of bias if ``with_bias``.

    ``tensors`` are input, weight, bias, ones, offset, mask and columns; then the gradients of
    input, weight, bias, offset and mask, to be filled; then the gradient of the output.
    """
    input, weight, _, _, offset, mask, _, *targets, grad_output = tensors
    # torchvision has the bias last.
    targets.append(targets.pop(2))
    size = grad_output.shape[2:]
    found = _backward(grad_output, input, weight, _read(offset, size), _read(mask, size), geometry)
    for target, grad in zip(targets[: 5 if with_bias else 4], found, strict=False):
        if target.shape == grad.shape:
            target.copy_(grad)
        else:
            target.zero_()
            _read(target, size).copy_(grad)


def _read(tensor: Tensor, size: torch.Size) -> Tensor:
    """Return the first numbers of offsets or masks (N, C, H, W) as (N, C, *size).

    mmcv's operator reads them like that when their size is not the output's; mmdet's DyHead
    depends on it.
    """
    if tensor.shape[2:] == size:
        return tensor
    number = tensor.shape[1] * size.numel()
    return tensor.contiguous().flatten(1)[:, :number].view(len(tensor), -1, *size)


def _in_order(geometry: dict[str, int]) -> tuple[int, ...]:
    return tuple(geometry[name] for name in (_UNMODULATED if 'dH' in geometry else _MODULATED))


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: dict[str, int],
) -> tuple[Tensor, ...]:
    """Return the gradients of input, weight, offset, mask and bias.

    Raises:
        RuntimeError: On CUDA, if deterministic algorithms are required; torchvision uses atomics.
    """
    strict = not torch.is_deterministic_algorithms_warn_only_enabled()
    if input.is_cuda and torch.are_deterministic_algorithms_enabled() and strict:
        raise RuntimeError(
            'a deformable convolution has no deterministic backward pass on CUDA; '
            'call torch.use_deterministic_algorithms(True, warn_only=True), or train on the CPU'
        )
    tensors = _operands(input, weight, offset, mask, None)
    ordered = _in_order(geometry)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        at_least_float32(grad_output), *tensors, *ordered, mask is not None
    )
    grads[2].masked_fill_(_outside(tensors[2], weight.shape[2:], ordered), 0)
    return grads


def _outside(offset: Tensor, kernel_size: torch.Size, geometry: tuple[int, ...]) -> Tensor:
    """Return which offsets (N, 2 D kH kW, H', W') reach at least a cell above or left of the map.

    For exactly one cell (the first taps at padding 1 and offset 0) torchvision gives the offset a
    gradient, mmcv none.
    """
    displaced = offset.unflatten(1, (-1, *kernel_size, 2))
    dy, dx = displaced.unbind(4)
    y = _taps(dy, kernel_size[0], offset.size(2), *geometry[0:6:2])[:, None, :, None]
    x = _taps(dx, kernel_size[1], offset.size(3), *geometry[1:6:2])[:, None, :]
    outside = (y + dy <= -1) | (x + dx <= -1)
    return outside.unsqueeze(4).expand_as(displaced).reshape(offset.shape)


def _taps(
    like: Tensor, kernel: int, outputs: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """Return the positions (kernel, outputs) along one axis without displacement."""
    taps, places = (torch.arange(count, device=like.device) for count in (kernel, outputs))
    return (taps[:, None] * dilation + places * stride - padding).to(like)


def _operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    """Return torchvision's tensor arguments, with zeros for a missing mask or bias."""
    mask = input.new_zeros(len(input), 1) if mask is None else mask
    bias = input.new_zeros(len(weight)) if bias is None else bias
    return [at_least_float32(tensor) for tensor in (input, weight, offset, mask, bias)]
