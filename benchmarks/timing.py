"""What the benchmarks share: calls that take turns, and what they ran on."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision


def processor() -> str:
    """Return the processor's name where Linux tells it, else its architecture."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time calls in turn, in ms, after one round that is not counted.

    Every round begins with another one, since what a call leaves behind in caches and memory slows
    or speeds the next.
    """
    times = {name: [] for name in calls}
    names = list(calls)
    for turn in range(repeats + 1):
        for name in names:
            start = time.perf_counter()
            calls[name]()
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3)
        names.append(names.pop(0))
    return times


def describe(times: list[float]) -> str:
    """Return the median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4)
    return f'{middle:.1f} ({low:.1f}-{high:.1f})'


def print_machine() -> None:
    """Print the processor, threads and versions."""
    print(f'{processor()}, {torch.backends.cpu.get_cpu_capability()}, ', end='')
    print(f'{torch.get_num_threads()} threads, Python {platform.python_version()}, ', end='')
    print(f'torch {torch.__version__}, torchvision {torchvision.__version__}')
