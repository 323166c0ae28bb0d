"""Report the speed and the output error after each step of an acceleration."""

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from .low_precision import tf32_as_in_products

SHAPE = (800, 1280)


class Steps:
    """A table of a net after each step, on an image (1, in_channels, 800, 1280)."""

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(1, net.in_channels, *SHAPE, generator=generator).to(device)
        self.table = Table('step', 'ms', 'gain', 'relative L2 error')
        self.first: tuple[float, list[Tensor]] | None = None

    @torch.no_grad()
    @tf32_as_in_products()
    def add(self, step: str, net: nn.Module) -> None:
        """Add the mean time of 3 calls, and the largest error of a level since the first step."""
        from torch.utils.benchmark import Timer  # slow to import

        variables = dict(net=net, x=self.x)
        timer = Timer('net(x)', globals=variables, num_threads=torch.get_num_threads())
        ms, outs = timer.timeit(3).mean * 1e3, [out.double() for out in net(self.x)]
        before, exact = self.first = self.first or (ms, outs)
        errors = [((a - b).norm() / b.norm()).item() for a, b in zip(outs, exact, strict=True)]
        self.table.add_row(step, f'{ms:.1f}', f'{before / ms:.2f}x', f'{max(errors):.1e}')

    def print(self) -> None:
        """Print the table."""
        Console().print(self.table)
