"""Launch all kernels of a net at once, by one CUDA graph per input shape."""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIMIT = 8  # graphs; each holds its input and outputs
WARMUP = 3  # calls that compile kernels and set up libraries
OUT_OF_MEMORY = 'out of memory'  # in the driver's message


class GraphCache:
    """Calls a net through CUDA graphs; beyond ``limit`` shapes the least recently used goes.

    A capture takes as long as several calls, so a shape is captured at its second call. Graphs
    share one memory pool, so all calls must be on one stream. If memory runs out, a warning says
    so, and further shapes run without a graph, with the same results.

    ``call`` maps a tensor on a GPU to a tuple of tensors, without synchronization.
    """

    def __init__(self, call: Callable[[Tensor], tuple[Tensor, ...]], limit: int = LIMIT) -> None:
        self.call, self.limit = call, limit
        self.graphs: OrderedDict[tuple, tuple | None] = OrderedDict()  # None: called once
        self.pool: Any = None  # the handle's type has no public name
        self.stream: torch.cuda.Stream | None = None  # one only: libraries keep memory per stream
        self.full = False

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the call in float32."""
        key = (tuple(x.shape), x.dtype, x.device)
        if key not in self.graphs:
            while len(self.graphs) >= self.limit:
                self.graphs.popitem(last=False)
            self.graphs[key] = None
            return tuple(output.float() for output in self.call(x))
        captured = self.graphs[key]
        if captured is None and not self.full:
            captured = self._try_to_capture(x)
        if captured is None:
            return tuple(output.float() for output in self.call(x))
        self.graphs[key] = captured
        self.graphs.move_to_end(key)
        graph, inputs, outputs = captured
        inputs.copy_(x)
        graph.replay()
        # The next replay overwrites the outputs.
        return tuple(output.to(torch.float32, copy=True) for output in outputs)

    def _try_to_capture(self, x: Tensor) -> tuple | None:
        """Capture a graph; without memory return None, and capture no more graphs."""
        try:
            return self._capture(x)
        except RuntimeError as error:  # OutOfMemoryError, or one from the driver
            if not isinstance(error, torch.cuda.OutOfMemoryError) and (
                OUT_OF_MEMORY not in str(error)
            ):
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
            for _ in range(WARMUP):
                self.call(inputs)
        torch.cuda.current_stream(x.device).wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            outputs = self.call(inputs)
        return graph, inputs, outputs

    def __deepcopy__(self, memo: dict) -> 'GraphCache':
        """Copy without graphs, which belong to the weights of their capture."""
        copied = memo[id(self)] = GraphCache(copy.deepcopy(self.call, memo), self.limit)
        return copied
