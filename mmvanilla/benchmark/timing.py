"""Timing several calls side by side, so that a machine that drifts does not decide."""

import statistics
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

# Two runs of one row should differ by no more in median; the two halves of a run tell.
STEADY = 0.05

Key = TypeVar('Key', bound=Hashable)


@dataclass
class Times:
    """Latencies of one call in ms, in the order in which they were taken."""

    values: list[float] = field(default_factory=list)

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
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)


def interleaved(
    prepares: dict[Key, Callable[[int], Callable[[], object]]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[Callable[[], object]], float] | None = None,
    advance: Callable[[], object] = lambda: None,
    failed: Callable[[Key, Exception], object] | None = None,
) -> tuple[dict[Key, Times], bool]:
    """Time calls in turn: A B C, B C A, ..., after rounds that are not counted.

    Every round begins with another one, since what a call leaves behind in caches and memory slows
    or speeds the next.

    Args:
        prepares: By name, a function of the round (warm-up rounds are negative) that returns the
            call to time; what it does itself is not timed.
        repeats: Rounds that count.
        warmup: Rounds before.
        clock: Times a call in ms; the CPU's unless given.
        advance: Called after every call, for a progress bar.
        failed: Called with the name and the error of a call that raises one; that name is left out
            from then on. Without it the error is raised.

    Returns:
        The times by name, and whether all rounds were run: after ctrl-C, what there is.
    """
    clock = clock or Clock()
    times = {name: Times() for name in prepares}
    names = list(prepares)
    try:
        for turn in range(-warmup, repeats):
            for name in list(names):
                try:
                    elapsed = clock(prepares[name](turn))
                except Exception as error:
                    if failed is None:
                        raise
                    failed(name, error)
                    names.remove(name)
                    times.pop(name)
                    continue
                if turn >= 0:
                    times[name].values.append(elapsed)
                advance()
            names = names[1:] + names[:1]
    except KeyboardInterrupt:
        return times, False
    return times, True
