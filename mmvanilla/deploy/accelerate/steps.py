"""What each step of an acceleration changed in speed and in output error."""

import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ...benchmark.timing import Clock
from .low_precision import tf32_as_in_products

SHAPE = (800, 1280)
CALLS = 3


class Report:
    """Times a net after every step, and compares its outputs with those before the first.

    Args:
        net: The net, which takes images (1, in_channels, 800, 1280).
        device: Where it runs.
    """

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(1, net.in_channels, *SHAPE, generator=generator).to(device)
        self.clock = Clock(device)
        self.table = Table('step', 'ms', 'gain', 'relative L2 error')
        self.reference: list[Tensor] | None = None
        self.first = float('nan')

    @torch.no_grad()
    @tf32_as_in_products()
    def add(self, step: str, call: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        """Measure: the median of 3 calls after one, and the largest error of a level."""
        outputs = [output.double() for output in call(self.x)]
        time = statistics.median(self.clock(lambda: call(self.x)) for _ in range(CALLS))
        if self.reference is None:
            self.reference, self.first = outputs, time
        error = max(
            ((mine - its).norm() / its.norm()).item()
            for mine, its in zip(outputs, self.reference, strict=True)
        )
        self.table.add_row(step, f'{time:.1f}', f'{self.first / time:.2f}x', f'{error:.1e}')

    def print(self) -> None:
        """Print the table."""
        Console().print(self.table)
