"""The functions of ``mmcv._ext``, under the names and keywords that mmcv's Python code uses.

They run on CPU and CUDA tensors. Every other public name is a function that raises
NotImplementedError: mmcv requires at import that all its operators exist.
"""

# ruff: noqa: F401 - imported for mmcv

from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torchvision

from .common import only_compiled
from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .focal_loss import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward
from .nms import nms, nms_match
from .roi_align import roi_align_backward, roi_align_forward
from .soft_nms import softnms


def get_compiler_version() -> str:
    """Name this package, for environment reports."""
    return f'none (mmvanilla.mmcv_ops on torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Return the CUDA version of PyTorch, or 'not available'."""
    return torch.version.cuda or 'not available'


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Return a function that raises NotImplementedError, for any other public name."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise only_compiled(repr(name))

    return missing
