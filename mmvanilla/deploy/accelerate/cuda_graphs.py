"""CUDA graphs: the kernels of a net launched at once, a graph for every shape of input."""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIMIT = 8  # graphs; each holds its input and outputs
WARMUP = 3
OUT = 'out of memory'  # in what the driver says of a graph that it cannot hold


class GraphCache:
    """Calls a net through CUDA graphs; of more than ``limit`` shapes the one unused longest goes.

    A shape is captured when it is met again while it is remembered, since a capture costs several
    calls. Graphs share one pool of memory, so calls must follow each other on one stream. Where the
    memory for another one lacks, a warning says so, and no more are captured: those shapes are
    called without a graph, with the same results.

    ``call`` maps a tensor on a GPU to a tuple of tensors, without synchronisation.
    """

    def __init__(self, call: Callable[[Tensor], tuple[Tensor, ...]], limit: int = LIMIT) -> None:
        self.call, self.limit = call, limit
        self.graphs: OrderedDict[tuple, tuple | None] = OrderedDict()  # None: met once
        self.pool: Any = None  # the type of torch's handle has no public name
        self.stream: torch.cuda.Stream | None = None  # one, as libraries keep memory for each
        self.full = False  # whether memory has lacked

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the call would, in float32."""
        key = (tuple(x.shape), x.dtype, x.device)
        if key not in self.graphs:
            while len(self.graphs) >= self.limit:
                self.graphs.popitem(last=False)
            self.graphs[key] = None
            return tuple(output.float() for output in self.call(x))
        captured = self.graphs[key] or (None if self.full else self._try_to_capture(x))
        if captured is None:
            return tuple(output.float() for output in self.call(x))
        self.graphs[key] = captured
        self.graphs.move_to_end(key)
        graph, inputs, outputs = captured
        inputs.copy_(x)
        graph.replay()
        # The next replay overwrites them.
        return tuple(output.to(torch.float32, copy=True) for output in outputs)

    def _try_to_capture(self, x: Tensor) -> tuple | None:
        """Capture, or return None where memory lacks, and from then on capture no more."""
        try:
            return self._capture(x)
        except RuntimeError as error:  # not all that lacks memory is an OutOfMemoryError
            if not isinstance(error, torch.cuda.OutOfMemoryError) and OUT not in str(error):
                raise
            reason = str(error).splitlines()[0]
        self.full = True
        torch.cuda.empty_cache()
        warnings.warn(
            f'there is no memory for a CUDA graph of {tuple(x.shape)} ({reason}), so images of '
            'this and further shapes are computed without one, with the same results; use fewer '
            'shapes or smaller batches, or leave cuda_graph out',
            stacklevel=2,
        )
        return None

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, ...]]:
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        self.stream = self.stream or torch.cuda.Stream(x.device)
        with torch.inference_mode(False):  # so that calls in any mode may write to it
            inputs = torch.empty_like(x, memory_format=torch.channels_last)
        inputs.copy_(x)
        self.stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(self.stream):
            for _ in range(WARMUP):  # kernels are compiled, libraries set up
                self.call(inputs)
        torch.cuda.current_stream(x.device).wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            outputs = self.call(inputs)
        return graph, inputs, outputs

    def __deepcopy__(self, memo: dict) -> 'GraphCache':
        """Start without graphs, which belong to the weights they were captured with."""
        copied = memo[id(self)] = GraphCache(copy.deepcopy(self.call, memo), self.limit)
        return copied
