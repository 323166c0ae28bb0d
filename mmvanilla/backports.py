"""Backports for older torch versions, down to 2.1."""

from typing import Optional

import torch

MaybeTensor = Optional[torch.Tensor]  # noqa: UP045 - torch.jit.script before 2.4 reads no `|`
# torch.compile supports recomputation, and custom backward passes with dynamic shapes.
COMPILES = torch.__version__ >= '2.8'
_AUTOCAST_BY_DEVICE = hasattr(torch, 'get_autocast_dtype')  # 2.4
_is_exporting = getattr(torch.compiler, 'is_exporting', torch.jit.is_tracing)  # 2.7

# Before 2.3 torch.compile cannot trace `a is b` of tensors.
OLD_DYNAMO = not hasattr(torch.compiler, 'is_compiling')


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype of autocast on a device, None if it is disabled."""
    if _AUTOCAST_BY_DEVICE:
        enabled = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if enabled else None
    if device_type == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def is_compiling() -> bool:
    """Return whether torch.compile is tracing."""
    if hasattr(torch.compiler, 'is_compiling'):  # 2.3
        return torch.compiler.is_compiling()
    return torch._utils.is_compiling()


def is_traced() -> bool:
    """Return whether torch.jit.trace (also a FLOP counter's) or torch.export is at work.

    Neither knows custom operators.
    """
    return torch.jit.is_tracing() or _is_exporting()
