"""Measure the peak memory of a model, and let allocations fail before memory runs out."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ..deploy.accelerate.fast_layers import OneDNNConv
from .machine import read_field

OUT_OF_MEMORY = (
    'Cannot allocate memory',  # Linux
    "can't allocate memory",
    'could not create a memory',
    'could not create a primitive',  # oneDNN, if its compiled code finds no memory
)


def peak_memory(model: nn.Module, call: Callable[[], object], device: torch.device) -> int:
    """Return the bytes of a model's weights plus the peak of one call.

    Other models in memory and the allocator's cache do not count.

    Args:
        model: The model.
        call: A call of the model, run once.
        device: Where the model computes.
    """
    # The packed weights of accelerated convolutions are neither parameters nor buffers.
    convs = [module for module in model.modules() if isinstance(module, OneDNNConv)]
    packed = [tensor for conv in convs for tensor in conv.packed]
    weights = sum(t.nbytes for t in [*model.parameters(), *model.buffers(), *packed])
    if device.type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return weights + torch.cuda.max_memory_allocated() - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler logs on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = profiled.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=start_time):
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return weights + peak


def start_time(event: Any) -> float:
    """Return the start of a profiler event, in ns, or in us before torch 2.4."""
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()


@contextmanager
def bounded_memory(available: int | None = None) -> Iterator[None]:
    """Make allocations beyond the machine's memory fail, so that no process is killed.

    Args:
        available: Bytes that may still be allocated; by default what Linux reports as available.
    """
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    used, free = _kilobytes('/proc/self/status', 'VmData'), available or available_memory()
    if used is not None and free is not None:
        bounds = [bound for bound in limit if bound != resource.RLIM_INFINITY]
        with suppress(ValueError, OSError):
            soft = min([used * 1024 + free, *bounds])
            resource.setrlimit(resource.RLIMIT_DATA, (soft, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limit)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error comes from exhausted memory, on the CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return any(message in str(error) for message in OUT_OF_MEMORY)


def available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping; None if unknown."""
    available = _kilobytes('/proc/meminfo', 'MemAvailable')
    bounds = [available * 1024] if available is not None else []
    group = Path('/sys/fs/cgroup')
    with suppress(OSError, ValueError):
        limit, used = ((group / f'memory.{name}').read_text() for name in ('max', 'current'))
        bounds.append(int(limit) - int(used))
    return min(bounds, default=None)


def _kilobytes(file: str, name: str) -> int | None:
    """Return the value of a ``name: value kB`` line."""
    value = read_field(file, name)
    return int(value.split()[0]) if value else None
