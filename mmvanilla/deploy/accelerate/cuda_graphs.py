"""CUDA graphs: the kernels of a net launched at once, a graph for every shape of input."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIMIT = 8  # graphs; each holds its input and outputs
WARMUP = 3


class GraphCache:
    """Calls a net through CUDA graphs; of more than ``limit`` shapes the one unused longest goes.

    A shape is captured when it is met again while it is remembered, since a capture costs several
    calls. Graphs share one pool of memory, so calls must follow each other on one stream.

    ``call`` maps a tensor on a GPU to a tuple of tensors, without synchronisation.
    """

    def __init__(self, call: Callable[[Tensor], tuple[Tensor, ...]], limit: int = LIMIT) -> None:
        self.call, self.limit = call, limit
        self.graphs: OrderedDict[tuple, tuple | None] = OrderedDict()  # None: met once
        self.pool: Any = None  # the type of torch's handle has no public name
        self.stream: torch.cuda.Stream | None = None  # one, as libraries keep memory for each

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the call would, in float32."""
        key = (tuple(x.shape), x.dtype, x.device)
        if key not in self.graphs:
            while len(self.graphs) >= self.limit:
                self.graphs.popitem(last=False)
            self.graphs[key] = None
            return tuple(output.float() for output in self.call(x))
        if self.graphs[key] is None:
            self.graphs[key] = self._capture(x)
        self.graphs.move_to_end(key)
        graph, inputs, outputs = self.graphs[key]
        inputs.copy_(x)
        graph.replay()
        # The next replay overwrites them.
        return tuple(output.to(torch.float32, copy=True) for output in outputs)

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
