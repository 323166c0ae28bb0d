"""Time calls on a CPU or GPU, and compute statistics of the times."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

STEADY = 0.05  # largest relative difference between the halves of a steady run


@dataclass
class Times:
    """Latencies of one call in ms, one for each round; false if there are none."""

    values: list[float] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def median(self) -> float:
        """Return the median in ms."""
        return statistics.median(self.values)

    @property
    def p10(self) -> float:
        """Return the 10th percentile in ms."""
        return float(np.percentile(self.values, 10))

    @property
    def p90(self) -> float:
        """Return the 90th percentile in ms."""
        return float(np.percentile(self.values, 90))

    @property
    def range(self) -> tuple[float, float]:
        """Return the shortest and the longest in ms."""
        return min(self.values), max(self.values)

    @property
    def spread(self) -> float:
        """Return the relative difference between the medians of both halves of the run.

        Two runs differ by about as much as two halves. NaN for a single value.
        """
        half = len(self.values) // 2
        if not half:
            return float('nan')
        first, second = self.values[:half], self.values[-half:]
        return abs(statistics.median(first) - statistics.median(second)) / self.median

    @property
    def steady(self) -> bool:
        """Return whether the spread is at most 5 %; false for a single value."""
        return self.spread <= STEADY

    def ratio(self, other: 'Times') -> 'Times':
        """Divide by the times of another call, round by round."""
        pairs = zip(self.values, other.values, strict=False)  # Ctrl-C may shorten one
        return Times([value / divisor for value, divisor in pairs])


def time_call(call: Callable[[], object], device: str | torch.device = 'cpu') -> float:
    """Return the latency of a call in ms.

    On CUDA, events around the call on an idle GPU measure the time from the first kernel launch to
    the end of the last kernel.

    Args:
        call: The call.
        device: Where it computes.
    """
    if torch.device(device).type != 'cuda':
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)
