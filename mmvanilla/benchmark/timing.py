"""The clock, and what its times tell."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

# Two runs of one row should differ by no more in median; the two halves of a run tell.
STEADY = 0.05


@dataclass
class Times:
    """Latencies of one call in ms, in the order in which they were taken; false if none were."""

    values: list[float] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def median(self) -> float:
        """The median in ms."""
        return statistics.median(self.values)

    @property
    def p10(self) -> float:
        """The 10th percentile in ms."""
        return float(np.percentile(self.values, 10))

    @property
    def p90(self) -> float:
        """The 90th percentile in ms."""
        return float(np.percentile(self.values, 90))

    @property
    def range(self) -> tuple[float, float]:
        """The shortest and the longest in ms."""
        return min(self.values), max(self.values)

    @property
    def spread(self) -> float:
        """The relative difference between the medians of the two halves of the run.

        Each half is a run of its own, so this is what a second run would differ by, if not less.
        """
        half = len(self.values) // 2
        if not half:
            return float('nan')
        first, second = self.values[:half], self.values[-half:]
        return abs(statistics.median(first) - statistics.median(second)) / self.median

    @property
    def steady(self) -> bool:
        """Whether the spread is at most 5 %; a single value tells nothing."""
        return self.spread <= STEADY

    def ratio(self, other: 'Times') -> 'Times':
        """Return this latency over another's, round by round."""
        pairs = zip(self.values, other.values, strict=False)  # ctrl-C may leave one short
        return Times([mine / its for mine, its in pairs])


class Clock:
    """Time a call on a device, in ms.

    On CUDA, events are recorded around the call on an idle device and waited for, so a time spans
    from the first launch to the end of the last kernel, whatever the host does in between.

    Args:
        device: Where the call computes.
    """

    def __init__(self, device: str | torch.device = 'cpu') -> None:
        self.cuda = torch.device(device).type == 'cuda'

    def __call__(self, call: Callable[[], object]) -> float:
        """Return the ms that a call takes."""
        if not self.cuda:
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
