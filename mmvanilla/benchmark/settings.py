"""Settings of a measurement, from the command line and checked before it starts."""

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .. import UserError
from ..deploy.accelerate.low_precision import has_instructions

STRIDE = 32  # of the last level of every backbone; detectors pad images to its multiples
DTYPES = dict(fp32=torch.float32, tf32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


@dataclass
class Settings:
    """How the models of one run are measured.

    Attributes:
        shape: Height and width of the images in pixels, at least 32.
        batch_size: Images in a call.
        device: Where the models run.
        dtype: ``fp32``, ``tf32`` (CUDA), ``fp16`` or ``bf16``. In 16 bit, convolutions and linear
            layers store their weights so, and autocast handles the rest.
        part: ``backbone``; ``neck``, which includes the backbone; ``network``, from a normalised
            image to the outputs of the heads; ``model``, a whole ``test_step`` from a uint8 image
            to results in the original size.
        channels_last: Store weights and inputs channels last.
        compile: Compile backbone and neck with ``torch.compile``.
        images: Folder of images, loaded by each config's test pipeline; None for random images.
        warmup: Rounds that do not count.
        repeat: Rounds that count.

    Raises:
        UserError: If a setting is out of range or not possible on this machine.
    """

    shape: tuple[int, int] = (800, 1280)
    batch_size: int = 1
    device: str = 'cpu'
    dtype: str = 'fp32'
    part: str = 'model'
    channels_last: bool = False
    compile: bool = False
    images: str | None = None
    warmup: int = 3
    repeat: int = 30

    def __post_init__(self) -> None:
        for name, smallest in (('batch_size', 1), ('warmup', 0), ('repeat', 1)):
            check_number(name, getattr(self, name), smallest)
        if min(self.shape) < STRIDE:
            raise UserError(
                f'--shape is {self.shape[0]} x {self.shape[1]}, expected a height and width of at '
                f'least {STRIDE}, the stride of the backbones'
            )
        if self.images and not os.path.isdir(self.images):
            raise UserError(f'--images is {self.images!r}, expected a folder of images')
        check_device(self.device)
        check_dtype(self.dtype, self.device)

    @property
    def padded(self) -> tuple[int, int]:
        """Return the shape, enlarged to multiples of the stride."""
        height, width = (-(-side // STRIDE) * STRIDE for side in self.shape)
        return height, width

    @property
    def torch_dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        return DTYPES[self.dtype]

    def describe(self) -> str:
        """Return the settings in words."""
        height, width = self.padded
        images = f'images of {self.images}, scaled by each pipeline'
        size = images if self.images else f'{height} x {width}'
        words = [self.part, size, f'batch {self.batch_size}', f'{self.device} in {self.dtype}']
        words += ['channels last'] if self.channels_last else []
        words += ['compiled backbone and neck'] if self.compile else []
        words.append(f'{self.warmup} + {self.repeat} rounds')
        return ', '.join(words)


def check_number(name: str, value: int, smallest: int) -> None:
    """Raise UserError for a number that is too small."""
    if value < smallest:
        option = name.replace('_', '-')
        raise UserError(f'--{option} is {value}, expected a number of at least {smallest}')


def check_device(device: str) -> None:
    """Raise UserError for a device that cannot be used."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--device {device!r} cannot be used: {reason}') from error


def check_dtype(dtype: str, device: str) -> None:
    """Raise UserError for a dtype that the device does not compute in."""
    cuda = torch.device(device).type == 'cuda'
    if dtype == 'tf32' and not (cuda and torch.cuda.get_device_capability(device)[0] >= 8):
        raise UserError('--dtype tf32 needs an NVIDIA GPU of the Ampere generation or later')
    if not cuda and dtype in ('fp16', 'bf16') and not has_instructions(DTYPES[dtype]):
        other = 'bf16' if has_instructions(torch.bfloat16) else 'fp32'
        raise UserError(f'this CPU has no instructions for --dtype {dtype}; use --dtype {other}')


@contextmanager
def precision(settings: Settings) -> Iterator[None]:
    """Compute in the settings' dtype, without gradients. TF32 stays as set."""
    device = torch.device(settings.device).type
    half = settings.torch_dtype if settings.torch_dtype != torch.float32 else None
    allow_tf32(settings.dtype == 'tf32')
    with torch.no_grad(), torch.autocast(device, half, enabled=half is not None):
        yield


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in PyTorch's older settings and in those of 2.9, which must agree."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    if hasattr(torch.backends, 'fp32_precision'):
        for setting in (matmul, cudnn.conv, cudnn.rnn):
            setting.fp32_precision = 'tf32' if allowed else 'ieee'


def read_settings(args: Namespace, **others: Any) -> Settings:
    """Return the settings of a command line, and set the number of threads.

    Args:
        args: Result of a parser with the arguments ``cli.MEASURING``.
        **others: Settings that the command line does not have.
    """
    if args.threads is not None:
        check_number('threads', args.threads, 1)
        torch.set_num_threads(args.threads)
    names = ('batch_size', 'device', 'dtype', 'channels_last', 'compile', 'warmup', 'repeat')
    return Settings(**{name: getattr(args, name) for name in names}, **others)
