"""Measure the peak memory of a model."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ..deploy.accelerate.fast_layers import OneDNNConv


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
