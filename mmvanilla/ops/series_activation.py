"""Max-pool, ReLU and depthwise convolution in one pass over memory, for inference on a GPU."""

import importlib.metadata
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library

from ..backports import autocast_dtype


def _has_triton() -> bool:
    """Return whether there is a Triton that compiles the kernel: 3.5 (torch 2.9) or later."""
    if not _HAS_CUSTOM_OP:
        return False
    try:
        version = importlib.metadata.version('triton')
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(number) for number in version.split('.')[:2]) >= (3, 5)


_HAS_CUSTOM_OP = hasattr(library, 'custom_op')  # torch 2.4
_HAS_TRITON = _has_triton()
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
    needs_gradient = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or bias.requires_grad
    )
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
                f'Triton {importlib.metadata.version("triton")} cannot compile or launch the '
                f'series activation on {x.device} ({type(error).__name__}: {cause}); PyTorch '
                'computes it there from now on, slower; try a newer Triton or driver',
                stacklevel=2,
            )
            return _on_other_devices(x, weight, bias, pool)
        return out


def _check(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> None:
    if pool not in (1, 2):
        raise ValueError(f'pool of series_activation is {pool!r}, expected 1 or 2')
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f'series_activation got an input of shape {tuple(x.shape)} and dtype {x.dtype}, '
            'expected floating-point (N, C, H, W)'
        )
    if min(x.shape[2:]) < pool:
        raise ValueError(
            f'series_activation got {x.shape[2]} x {x.shape[3]} pixels, '
            f'expected at least {pool} x {pool}; enlarge the image'
        )
    channels, side = x.shape[1], weight.shape[-1] if weight.ndim else 0
    if tuple(weight.shape) != (channels, 1, side, side) or side not in (3, 5, 7, 9):
        raise ValueError(
            f'weight of series_activation has shape {tuple(weight.shape)}, '
            f'expected ({channels}, 1, k, k) with k = 3, 5, 7 or 9'
        )
    if tuple(bias.shape) != (channels,):
        raise ValueError(
            f'bias of series_activation has shape {tuple(bias.shape)}, expected ({channels},)'
        )
    if not x.device == weight.device == bias.device:
        raise ValueError(
            f'series_activation got an input on {x.device}, a weight on {weight.device} and a bias '
            f'on {bias.device}, expected one device; move them'
        )
