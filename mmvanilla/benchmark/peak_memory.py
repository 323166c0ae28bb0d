"""How much memory a model takes at its peak, and what happens when there is too little."""

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


def peak_memory(model: nn.Module, call: Callable[[], object], device: torch.device) -> int:
    """Return the bytes of a model's weights and of the most that one call holds besides.

    Other models that lie in memory are not counted, nor is what the allocator keeps for later.

    Args:
        model: The model.
        call: A call of it, run once.
        device: Where it computes.
    """
    # Accelerated convolutions hold their weights packed, neither as parameters nor as buffers.
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
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler chats on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = profiled.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=started):
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return weights + peak


def started(event: Any) -> float:
    """Return when an event of the profiler began; before torch 2.4 it tells but microseconds."""
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()


@contextmanager
def bounded_memory(available: int | None = None) -> Iterator[None]:
    """Let an allocation beyond what the machine has left fail, instead of the process be killed.

    Args:
        available: Bytes that may still be allocated; by default what Linux says is available.
    """
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    used, left = _kilobytes('/proc/self/status', 'VmData'), available or available_memory()
    if used is not None and left is not None:
        bounds = [bound for bound in limit if bound != resource.RLIM_INFINITY]
        with suppress(ValueError, OSError):
            soft = min([used * 1024 + left, *bounds])
            resource.setrlimit(resource.RLIMIT_DATA, (soft, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limit)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on the CPU or on the GPU."""
    return (
        isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        or "can't allocate memory" in str(error)
        or 'could not create a memory' in str(error)
        or 'could not create a primitive' in str(error)  # oneDNN found no room for its code
    )


def available_memory() -> int | None:
    """Return the bytes that may be allocated without swapping, None where Linux does not tell."""
    available = _kilobytes('/proc/meminfo', 'MemAvailable')
    bounds = [available * 1024] if available is not None else []
    group = Path('/sys/fs/cgroup')
    with suppress(OSError, ValueError):
        limit, used = ((group / f'memory.{name}').read_text() for name in ('max', 'current'))
        bounds.append(int(limit) - int(used))
    return min(bounds, default=None)


def _kilobytes(file: str, name: str) -> int | None:
    """Return the value of a ``name: value kB`` line of a file of Linux."""
    value = read_field(file, name)
    return int(value.split()[0]) if value else None
