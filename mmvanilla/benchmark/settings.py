"""How a measurement is made: the settings, read from a command line and checked beforehand."""

import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from .. import UserError
from ..deploy.accelerate.low_precision import has_instructions

STRIDE = 32  # of every backbone's last level, and what detectors pad their images to
DTYPES = dict(fp32=torch.float32, tf32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)
PARTS = ('backbone', 'neck', 'network', 'model')


@dataclass
class Settings:
    """How the models of one run are measured.

    Attributes:
        shape: Height and width of the images in pixels, multiples of 32.
        batch_size: Images of a call.
        device: Where the models run.
        dtype: ``fp32``, ``tf32`` (CUDA), ``fp16`` or ``bf16``. In 16 bit the weights of
            convolutions and linear layers are stored so, and the rest runs under autocast.
        part: ``backbone``; ``neck``, with the backbone; ``network``, from a normalised image to the
            outputs of the heads; ``model``, a whole ``test_step`` from a uint8 image to results in
            the size of the original.
        channels_last: Store weights and inputs channels last.
        compile: Compile backbone and neck by ``torch.compile``.
        images: Folder of images to send through each config's test pipeline instead of random ones.
        warmup: Rounds that are not counted.
        repeat: Rounds that are.

    Raises:
        UserError: If a setting is out of its range or this machine cannot do it.
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
        for name, least in (('batch_size', 1), ('warmup', 0), ('repeat', 1)):
            if getattr(self, name) < least:
                option = name.replace('_', '-')
                raise UserError(
                    f'--{option} is {getattr(self, name)}, expected a number of at least {least}'
                )
        if min(self.shape) < STRIDE:
            raise UserError(
                f'--shape is {self.shape[0]} x {self.shape[1]}, expected a height and width of at '
                f'least {STRIDE}, the stride of the backbones'
            )
        if self.images and not os.path.isdir(self.images):
            raise UserError(f'--images is {self.images!r}, expected a folder of images')
        check_device(self.device)
        check_dtype(self.dtype, self.device)
        if self.compile:
            check_compiler(self.device)

    @property
    def padded(self) -> tuple[int, int]:
        """The shape, enlarged to multiples of the stride."""
        height, width = (-(-side // STRIDE) * STRIDE for side in self.shape)
        return height, width

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the weights."""
        return DTYPES[self.dtype]

    def describe(self) -> str:
        """Return the settings in words."""
        size = f'{self.padded[0]} x {self.padded[1]}'
        if self.padded != tuple(self.shape):
            size += f' (padded from {self.shape[0]} x {self.shape[1]}, the stride is {STRIDE})'
        if self.images:
            size = f'images of {self.images}, scaled by each pipeline'
        words = [self.part, size, f'batch {self.batch_size}', f'{self.device} in {self.dtype}']
        words += ['channels last'] if self.channels_last else []
        words += ['compiled backbone and neck'] if self.compile else []
        words.append(f'{self.warmup} + {self.repeat} rounds')
        return ', '.join(words)


def check_device(device: str) -> None:
    """Raise UserError where a device cannot be used."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--device {device!r} cannot be used: {reason}') from error


def check_dtype(dtype: str, device: str) -> None:
    """Raise UserError where a device does not compute in a type."""
    cuda = torch.device(device).type == 'cuda'
    if dtype == 'tf32' and not (cuda and torch.cuda.get_device_capability(device)[0] >= 8):
        raise UserError('--dtype tf32 needs an NVIDIA GPU of the Ampere generation or later')
    if cuda or dtype not in ('fp16', 'bf16'):
        return
    if not has_instructions(DTYPES[dtype]):
        other = 'bf16' if has_instructions(torch.bfloat16) else 'fp32'
        raise UserError(
            f'--dtype {dtype} needs a CPU with instructions for it, and this one has none; '
            f'use --dtype {other}'
        )


def check_compiler(device: str) -> None:
    """Raise UserError where torch.compile finds nothing to compile with."""
    if torch.device(device).type == 'cuda' and find_spec('triton') is None:
        raise UserError('--compile needs Triton on a GPU: pip install triton')
    compiler = os.environ.get('CXX', 'g++')
    if not shutil.which(compiler):
        raise UserError(
            f'--compile needs a C++ compiler, and there is no {compiler!r}; install g++ or set CXX'
        )


@contextmanager
def precision(settings: Settings) -> Iterator[None]:
    """Compute in the settings' type, without gradients."""
    device = torch.device(settings.device).type
    backends: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = settings.dtype == 'tf32'
    half = settings.torch_dtype if settings.torch_dtype != torch.float32 else None
    try:
        with torch.no_grad(), torch.autocast(device, half, enabled=half is not None):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def add_arguments(parser: ArgumentParser, repeat: int = Settings.repeat) -> None:
    """Add the arguments that say how to measure.

    Args:
        parser: Where to.
        repeat: Default number of rounds.
    """
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images of a call')
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where to run (default: %(default)s)',
    )
    parser.add_argument(
        '--dtype', choices=list(DTYPES), default='fp32', help='precision (default: %(default)s)'
    )
    parser.add_argument('--channels-last', action='store_true', help='store tensors channels last')
    parser.add_argument('--compile', action='store_true', help='compile backbone and neck')
    parser.add_argument('--threads', type=int, metavar='N', help='CPU threads')
    parser.add_argument(
        '--warmup', type=int, default=3, metavar='N', help='rounds that are not counted'
    )
    parser.add_argument(
        '--repeat', type=int, default=repeat, metavar='N', help='rounds (default: %(default)s)'
    )


def read_settings(args: Namespace, **others: Any) -> Settings:
    """Return the settings that a command line asks for, and set the number of threads.

    Args:
        args: What a parser with :func:`add_arguments` returned.
        **others: Settings that this command line does not have.
    """
    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f'--threads is {args.threads}, expected a number of at least 1')
        torch.set_num_threads(args.threads)
    names = ('batch_size', 'device', 'dtype', 'channels_last', 'compile', 'warmup', 'repeat')
    return Settings(**{name: getattr(args, name) for name in names}, **others)
