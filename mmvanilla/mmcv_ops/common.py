"""Helpers that several operators share."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; return other types as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def only_compiled(operator: str) -> NotImplementedError:
    """Return the error for an operator that this package does not have."""
    return NotImplementedError(
        f'mmcv operator {operator} exists only in compiled mmcv; '
        'install mmcv==2.1.0 in place of mmcv-lite to use it'
    )
