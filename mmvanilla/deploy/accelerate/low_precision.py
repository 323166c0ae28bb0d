"""The precision of an accelerated model: which type, and how its parts compute in it."""

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
    """Return the type to compute in on a device, see ``accelerate.accelerate``.

    Raises:
        UserError: If the type is unknown or this device does not compute in it.
    """
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
    """Tell whether oneDNN computes in a 16-bit type on this CPU, be it by emulation."""
    try:
        one = torch.ones(1, 1, 1, 1).to_mkldnn(dtype)
        functional.conv2d(one, one)
    except RuntimeError:  # which is how torch tells that it does not
        return False
    return True


def has_fast_bfloat16() -> bool:
    """Tell whether bfloat16 is faster than float32 on this CPU; support alone may be emulation."""
    flags = set()
    if hasattr(torch.cpu, 'get_capabilities'):
        flags = {name for name, value in torch.cpu.get_capabilities().items() if value}
    elif CPUINFO.is_file():  # for an older torch on Linux
        flags = set(CPUINFO.read_text().split())
    return bool(flags & {'avx512_bf16', 'amx_bf16'}) and has_instructions(torch.bfloat16)


def check_range(net: nn.Module, dtype: torch.dtype) -> None:
    """Check that a type can hold a net's weights.

    Raises:
        UserError: If one of them would become infinite.
    """
    for name, parameter in net.named_parameters():
        if not parameter.to(dtype).isfinite().all():
            raise UserError(
                f'{name} of the fused VanillaNet does not fit {dtype}; use dtype="bf16" or "fp32"'
            )


@contextmanager
def tf32_as_in_products() -> Iterator[None]:
    """Convolve in TF32 only where matrices are multiplied in it; PyTorch's defaults differ.

    The net's 1x1 convolutions are products on CUDA, and its stem should be as exact as they are.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def store_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Store what autocast would otherwise convert at every call in that type."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, SeriesActivation)
    for module in model.modules():
        if isinstance(module, kinds):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


class LowPrecision:
    """Takes the place of ``forward`` of a neck or head: computes in 16 bit, gives float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: str) -> None:
        store_weights(module, dtype)
        self.forward, self.dtype, self.device = module.forward, dtype, device

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call the module's own ``forward``."""
        args, kwargs = convert((args, kwargs), self.dtype)
        with torch.autocast(self.device, self.dtype):
            return convert(self.forward(*args, **kwargs), torch.float32)


def convert(values: Any, dtype: torch.dtype) -> Any:
    """Convert the floating-point tensors in tuples, lists and dicts."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype)

    return apply_to(values, is_real, cast)


def is_real(value: object) -> bool:
    """Tell whether this is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def contiguous(module: nn.Module, args: tuple, outputs: Any) -> Any:
    """Return outputs as (N, C, H, W) in memory, as compiled operators of mmcv take them to be."""
    return apply_to(outputs, lambda value: isinstance(value, Tensor), Tensor.contiguous)
