"""What ``mmcv._ext`` offers: the names mmcv's Python code calls, with the keywords it uses.

The operators below work on CPU and CUDA tensors. Every other public name is a function that
says what to install, because mmcv asserts at import that all its operators exist.
"""

# ruff: noqa: F401 - what is imported here is for mmcv

from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torchvision

from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .nms import nms, nms_match
from .roi_align import roi_align_backward, roi_align_forward
from .roi_pool import roi_pool_backward, roi_pool_forward
from .soft_nms import softnms


def get_compiler_version() -> str:
    """Say, for environment reports, what runs in place of a compiled mmcv."""
    return f'none (mmvanilla.mmcv_ops on torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Return the CUDA version PyTorch was built with, or 'not available'."""
    return torch.version.cuda or 'not available'


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Return, for any other public name, a function that raises NotImplementedError."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f'mmcv operator {name!r} exists only in compiled mmcv: '
            'install mmcv==2.1.0 in place of mmcv-lite to use it.'
        )

    return missing
