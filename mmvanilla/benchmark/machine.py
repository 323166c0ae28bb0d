"""Describe the machine of a measurement."""

import itertools
import os
import platform
from pathlib import Path

import torch
import torchvision

from ..deploy.accelerate.low_precision import cpu_flags
from ..installed import DISTRIBUTIONS, version

HALF = {'avx512_bf16', 'avx512_fp16', 'amx_bf16', 'amx_fp16'}  # instructions for 16 bit


def processor() -> str:
    """Return the processor's name on Linux, elsewhere its architecture."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, '') or platform.processor() or platform.machine()


def describe(device: str | torch.device = 'cpu') -> dict[str, str]:
    """Return hardware, threads and versions by name."""
    half = ', '.join(sorted(cpu_flags() & HALF))
    distributions = itertools.chain(*DISTRIBUTIONS.values())
    facts = dict(
        processor=processor(),
        cores=str(os.cpu_count()),
        instructions=torch.backends.cpu.get_cpu_capability() + (f' ({half})' if half else ''),
        threads=str(torch.get_num_threads()),
        system=platform.platform(aliased=True, terse=True),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        **{name: found for name in distributions if (found := version(name))},
    )
    if torch.device(device).type == 'cuda':
        facts.update(
            gpu=torch.cuda.get_device_name(device),
            cuda=str(torch.version.cuda),
            cudnn=str(torch.backends.cudnn.version()),
        )
    return facts
