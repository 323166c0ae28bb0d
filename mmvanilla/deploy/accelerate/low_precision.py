"""The dtype of an accelerated model, and modules that compute in 16 bit."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.nn import functional

from ...errors import UserError, require
from ...models import SeriesActivation

CPUINFO = Path('/proc/cpuinfo')
DTYPES = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


def choose_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """Return the dtype for a device, see ``accelerate``; raise a UserError if it has none."""
    if dtype is None:
        if device.type == 'cuda':
            return torch.float16
        return torch.bfloat16 if has_fast_bfloat16() else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    expected = f'None or one of {", ".join(DTYPES)}'
    require('dtype', dtype, chosen in DTYPES.values(), expected)
    if device.type == 'cpu' and chosen != torch.float32 and not has_instructions(chosen):
        raise UserError(
            f'dtype is {dtype!r}, which this processor has no instructions for; use fp32 or None'
        )
    return chosen


@lru_cache
def has_instructions(dtype: torch.dtype) -> bool:
    """Return whether oneDNN computes in a 16-bit dtype on this CPU, perhaps by emulation."""
    try:
        one = torch.ones(1, 1, 1, 1).to_mkldnn(dtype)
        functional.conv2d(one, one)
    except RuntimeError:  # torch's only sign of a missing dtype
        return False
    return True


def has_fast_bfloat16() -> bool:
    """Return whether bfloat16 is faster than float32 on this CPU; it may be emulated."""
    fast = cpu_flags() & {'avx512_bf16', 'amx_bf16'}
    return bool(fast) and has_instructions(torch.bfloat16)


def cpu_flags() -> set[str]:
    """Return the names of this CPU's instruction sets; none if unknown."""
    if hasattr(torch.cpu, 'get_capabilities'):
        return {name for name, value in torch.cpu.get_capabilities().items() if value}
    return set(CPUINFO.read_text().split()) if CPUINFO.is_file() else set()  # older torch on Linux


def check_range(net: nn.Module, dtype: torch.dtype) -> None:
    """Check that no weight of a net would become infinite in a dtype."""
    for name, parameter in net.named_parameters():
        if not parameter.to(dtype).isfinite().all():
            raise UserError(
                f'{name} of the fused VanillaNet does not fit {dtype}; use dtype="bf16" or "fp32"'
            )


@contextmanager
def tf32_as_in_products() -> Iterator[None]:
    """Convolve in TF32 only if matrix products do; PyTorch's defaults differ.

    The net's 1x1 convolutions are matrix products on CUDA, and its stem should be as exact.
    """
    cudnn: Any = torch.backends.cudnn
    products: Any = torch.backends.cuda.matmul
    newer = [cudnn.conv, cudnn.rnn] if hasattr(torch.backends, 'fp32_precision') else []
    before = [setting.fp32_precision for setting in newer]
    try:
        allowed = cudnn.allow_tf32
        cudnn.allow_tf32 = products.allow_tf32
    except RuntimeError:  # the newer settings are in use, and the older ones cannot be read
        allowed = None
        newer[0].fp32_precision = 'tf32' if products.fp32_precision == 'tf32' else 'ieee'
    try:
        yield
    finally:
        if allowed is not None:
            cudnn.allow_tf32 = allowed
        for setting, value in zip(newer, before, strict=True):
            setting.fp32_precision = value


def store_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights in place that autocast would otherwise convert at every call."""
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, SeriesActivation)
    for module in model.modules():
        if isinstance(module, layers):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


class LowPrecision:
    """Replacement for the ``forward`` of a neck or head: 16 bit inside, float32 outputs."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: str) -> None:
        store_weights(module, dtype)
        self.forward, self.dtype, self.device = module.forward, dtype, device

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call the module's own ``forward``."""
        args, kwargs = convert((args, kwargs), self.dtype)
        with torch.autocast(self.device, self.dtype):
            return convert(self.forward(*args, **kwargs), torch.float32)


def convert(values: Any, dtype: torch.dtype) -> Any:
    """Convert the floating-point tensors in nested tuples, lists and dicts."""

    def cast(value: Any) -> Any:
        return value.to(dtype) if value.is_floating_point() else value

    return apply_to(values, lambda value: isinstance(value, Tensor), cast)


def contiguous(module: nn.Module, args: tuple, outputs: Any) -> Any:
    """Make outputs contiguous (N, C, H, W), which mmcv's compiled operators take for granted."""
    return apply_to(outputs, lambda value: isinstance(value, Tensor), Tensor.contiguous)
