"""Max-pool, ReLU and depthwise convolution in one pass over memory, for inference on a GPU."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library

from ..backports import autocast_dtype
from ..errors import require
from ..installed import release, version

_HAS_CUSTOM_OP = hasattr(library, 'custom_op')  # torch 2.4
_TRITON = version('triton')
# Triton before 3.5 (torch 2.9) cannot compile the kernel.
_HAS_TRITON = _HAS_CUSTOM_OP and _TRITON is not None and release(_TRITON) >= (3, 5)
_FUSED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def series_activation(x: Tensor, weight: Tensor, bias: Tensor, pool: int = 1) -> Tensor:
    """Compute ``depthwise_conv2d(relu(max_pool(x)), weight, padding=n) + bias``.

    This is the max-pool and the series activation in deploy form (arXiv 2305.12972, section 3.2).
    On a GPU without gradients one Triton kernel computes both, in the custom operator
    ``mmvanilla::series_activation``; otherwise PyTorch's operators do. Autocast converts the input
    as for a convolution.

    The first call for a number of channels, window, pool and dtype compiles the kernel, in seconds,
    and Triton stores it on disk; so call once before capturing a CUDA graph. If Triton cannot
    compile or launch the kernel, PyTorch's operators compute the same, after one warning per GPU.

    Args:
        x: (N, C, H, W). The fused operator converts other layouts than channels-last.
        weight: (C, 1, 2n + 1, 2n + 1), n from 1 to 4, of any float dtype; sums are in float32. The
            fused operator copies it unless it is in float32 with its channels innermost (see
            ``channels_innermost``).
        bias: (C,).
        pool: Kernel and stride of the max-pool, 1 (none) or 2; as in ``nn.MaxPool2d`` an odd last
            row or column is left out.

    Returns:
        (N, C, H // pool, W // pool) in the input's dtype; channels-last from the fused operator,
        otherwise in the input's layout.

    Raises:
        ValueError: If an argument has another shape, dtype or device.
    """
    _check(x, weight, bias, pool)
    if _can_fuse(x, weight, bias):
        if dtype := autocast_dtype(x.device.type):
            x = x.to(dtype)
        return _fused(x, weight, bias, pool)
    return _by_pytorch(x, weight, bias, pool)


def channels_innermost(weight: Tensor) -> Tensor:
    """Copy a weight (C, 1, k, k) so that its channels are adjacent in memory.

    In float32 the fused operator needs no copy of it, which would be one more kernel in each call.
    """
    return weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def _can_fuse(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    needs_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    return _HAS_TRITON and x.is_cuda and x.dtype in _FUSED_DTYPES and not needs_gradient


def _by_pytorch(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
    if pool > 1:
        x = F.max_pool2d(x, pool)
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return F.conv2d(F.relu(x), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def _on_other_devices(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
    # For other devices, so that a model traced on a GPU runs there too.
    return _by_pytorch(x, weight, bias, pool).contiguous(memory_format=torch.channels_last)


def _empty_output(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
    batch, channels, height, width = x.shape
    shape = (batch, channels, height // pool, width // pool)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


_without_kernel: set[torch.device] = set()  # GPUs where Triton failed
_fused: Any = _on_other_devices
if _HAS_CUSTOM_OP:
    _fused = library.custom_op('mmvanilla::series_activation', _on_other_devices, mutates_args=())
    _fused.register_fake(_empty_output)

if _HAS_TRITON:

    @_fused.register_kernel('cuda')
    def _launch(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        from .series_activation_triton import FAILURES, launch

        if x.device in _without_kernel:
            return _on_other_devices(x, weight, bias, pool)
        out = _empty_output(x, weight, bias, pool)
        if not out.numel():
            return out
        channels_last = x.contiguous(memory_format=torch.channels_last)
        try:
            launch(channels_last, weight, bias, pool, out)
        except torch.cuda.OutOfMemoryError:  # a RuntimeError, but not from Triton
            raise
        except FAILURES as error:
            _without_kernel.add(x.device)
            cause = ' '.join(str(error).split())[:300]
            warnings.warn(
                f'Triton {_TRITON} cannot compile or launch the series activation on {x.device} '
                f'({type(error).__name__}: {cause}); PyTorch computes it there from now on, '
                'slower; try a newer Triton or driver',
                stacklevel=2,
            )
            return _on_other_devices(x, weight, bias, pool)
        return out


def _check(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> None:
    require('pool of series_activation', pool, pool in (1, 2), '1 or 2')
    require('shape of the input', x.shape, x.ndim == 4, '(N, C, H, W)')
    require('dtype of the input', x.dtype, x.is_floating_point(), 'a floating-point dtype')
    fits = min(x.shape[2:]) >= pool
    require('size of the input', x.shape[2:], fits, 'at least that of the pool; enlarge the image')
    side = weight.shape[-1] if weight.ndim else 0
    fits = tuple(weight.shape) == (x.shape[1], 1, side, side) and side in (3, 5, 7, 9)
    window = '(C, 1, k, k) with the C channels of the input and k = 3, 5, 7 or 9'
    require('shape of the weight', weight.shape, fits, window)
    require('shape of the bias', bias.shape, bias.shape == weight.shape[:1], '(C,)')
    devices = x.device, weight.device, bias.device
    fits = devices[0] == devices[1] == devices[2]
    require('devices of input, weight and bias', devices, fits, 'one device; move them')
