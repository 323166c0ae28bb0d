"""Describe the machine of a measurement, and what else used it."""

import itertools
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision

from ..deploy.accelerate.low_precision import cpu_flags
from ..installed import DISTRIBUTIONS, version

OTHERS = 0.05  # cores that other processes and machines may use without a word
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


class CpuSeconds(NamedTuple):
    """CPU time of all cores in seconds: of this process and its ended children, and of others."""

    clock: float
    own: float
    busy: float
    stolen: float


def cpu_seconds() -> CpuSeconds:
    """Read the CPU time since the start; ``busy`` and ``stolen`` are 0 where unknown."""
    stat, busy, stolen = Path('/proc/stat'), 0.0, 0.0
    if stat.exists():
        ticks = stat.read_text().split(maxsplit=9)[1:9]
        user, nice, system, _, _, irq, softirq, steal = (
            int(value) / os.sysconf('SC_CLK_TCK') for value in ticks
        )
        busy, stolen = user + nice + system + irq + softirq, steal
    return CpuSeconds(time.perf_counter(), sum(os.times()[:4]), busy, stolen)


def disturbances(before: CpuSeconds) -> list[str]:
    """Return a sentence for other processes, and one for other machines, that used the CPU."""
    clock, own, busy, stolen = (b - a for a, b in zip(before, cpu_seconds(), strict=True))
    used = {'other processes': busy - own, 'other machines, on the same host,': stolen}
    return [
        f'{who} used {seconds / clock:.2f} cores; repeat on an idle machine'
        for who, seconds in used.items()
        if busy and clock > 1 and seconds > OTHERS * clock  # ticks of 10 ms are coarse
    ]
