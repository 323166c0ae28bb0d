"""Compare routes to the same result: arguments, measurement, floors, table and file."""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from torch.utils.mkldnn import to_mkldnn

from mmvanilla import UserError
from mmvanilla.benchmark import Conditions, take_turns, writing
from mmvanilla.benchmark.machine import describe
from mmvanilla.benchmark.settings import DTYPES, check_dtype
from mmvanilla.benchmark.tables import describe_machine, make_console, print_table
from mmvanilla.benchmark.timing import time_call

TURN = 300  # ms, shortest turn of a route
PIXELS, WIDTH = (50, 80), 2048  # of the product for floors: VanillaNet-13 at stride 16
Call = Callable[[], object]
# Takes a route and the arguments; returns the call to time and facts for the table.
Make = Callable[[str, argparse.Namespace], tuple[Call, dict]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every comparison."""
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1280], metavar=('H', 'W'))
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where to run (default: %(default)s)',
    )
    parser.add_argument('--routes', nargs='+', metavar='ROUTE', help='names of routes to measure')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), metavar='N')
    parser.add_argument('--repeat', type=int, default=5, metavar='N', help='rounds that count')
    parser.add_argument('--out', metavar='FILE.json', help='write all figures to FILE.json')


def add_net_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a backbone and its batch."""
    parser.add_argument('--arch', default='13', help='variant (default: %(default)s)')
    parser.add_argument('--act-num', type=int, default=4, help='n (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N')


def pick(routes: list[str], args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Return the routes named on the command line, by default all."""
    for name in args.routes or ():
        if name not in routes:
            parser.error(
                f'--routes has {name!r}, expected some of {", ".join(map(repr, routes))} on '
                f'{args.device}'
            )
    return args.routes or routes


def measure(make: Make, routes: list[str], args: argparse.Namespace) -> dict[str, dict]:
    """Time every route in its own process, in turn.

    Args:
        make: Builds the call of a route, in the route's process.
        routes: Names of the routes.
        args: With ``device``, ``threads`` and ``repeat``. Receives ``left_out`` (routes without
            their package or hardware) and ``failed``, both with the reasons.

    Returns:
        For each measured route the facts from ``make`` and ``times`` in ms.

    Raises:
        KeyboardInterrupt: After ctrl-C.
    """
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    makes = {route: partial(make_route, make, route, args) for route in routes}
    conditions = Conditions(args.device, min_ms=TURN)
    result = take_turns(makes, args.repeat, conditions=conditions, console=Console(stderr=True))
    if not result.complete:
        raise KeyboardInterrupt
    reasons = [row for row in result.rows if row.reason]
    args.left_out = {row.name: row.reason for row in reasons if row.missing}
    args.failed = {row.name: row.reason for row in reasons if not row.missing}
    measured = (row for row in result.rows if row.times)
    return {row.name: dict(row.metadata, times=row.times.values) for row in measured}


def make_route(make: Make, route: str, args: argparse.Namespace) -> tuple[Callable, dict]:
    """Build a route with the same call in every round."""
    call, facts = make(route, args)
    return lambda turn: call, facts


def rates(dtypes: Iterable[str], args: argparse.Namespace) -> dict[str, float]:
    """Return the rate of matrix products by dtype, in G multiply-adds a second, for floors."""
    return {dtype: matrix_product_rate(dtype, args.device) for dtype in sorted(set(dtypes))}


@torch.no_grad()
def matrix_product_rate(dtype: str, device: str) -> float:
    """Return the rate of a product as large as VanillaNet-13's, in G multiply-adds a second.

    On the CPU the faster of PyTorch's matrix product and oneDNN's 1x1 convolution.
    """
    x = torch.randn(1, WIDTH, *PIXELS, device=device).to(DTYPES[dtype])
    pixels = x.flatten(2).mT.contiguous()
    conv = torch.nn.Conv2d(WIDTH, WIDTH, 1).to(device).eval()
    weight, bias = conv.weight.flatten(1).to(x.dtype), conv.bias.to(x.dtype)
    ways = [lambda: F.linear(pixels, weight, bias)]
    if device == 'cpu' and supported(dtype):
        packed, blocked = to_mkldnn(conv, x.dtype), x.to_mkldnn()
        ways.append(lambda: packed(blocked))
    calls = 1 if device == 'cpu' else 100  # enough to hide the launches
    best = min(
        time_call(lambda way=way: [way() for _ in range(calls)], device) for way in ways * 10
    )
    return math.prod(PIXELS) * WIDTH**2 * calls / best / 1e6


def supported(dtype: str, device: str = 'cpu') -> bool:
    """Return whether a device computes in a dtype."""
    try:
        check_dtype(dtype, device)
    except UserError:
        return False
    return True


def show(
    rows: dict[str, dict], columns: dict[str, Callable[[dict], str]], args: argparse.Namespace
) -> None:
    """Print medians, ranges, gains over the first route and further columns.

    Then the machine, and the routes without times with their reasons.
    """
    first = next(iter(rows), None)
    cells = []
    for route, row in rows.items():
        row['ms'] = statistics.median(row['times'])
        row['gain'] = statistics.median(rows[first]['times']) / row['ms']
        spread = f'{_ms(min(row["times"]))}-{_ms(max(row["times"]))}'
        further = [column(row) for column in columns.values()]
        cells.append([route, _ms(row['ms']), spread, f'{row["gain"]:.2f}', *further])
    print_table(['route', 'ms', 'range', 'gain over the first', *columns], cells, make_console())
    print(describe_machine(describe(args.device)))
    for route, reason in args.left_out.items():
        print(f'{route} is left out: {reason}')
    for route, reason in args.failed.items():
        print(f'{route} failed: {reason}')


def _ms(value: float) -> str:
    return f'{value:.0f}' if value >= 1000 else f'{value:.4g}'


def write(rows: dict[str, dict], args: argparse.Namespace, **others: object) -> None:
    """Write all figures to ``args.out``, if given.

    Raises:
        SystemExit: If a route failed, or no route was measured.
    """
    routes = {
        route: {name: value for name, value in row.items() if name != 'outputs'}
        for route, row in rows.items()
    }
    if args.out:
        result = dict(vars(args), machine=describe(args.device), routes=routes, **others)
        with writing(args.out) as file:
            Path(file).write_text(json.dumps(result, indent=1))
    if args.failed or not rows:
        raise SystemExit(f'failed: {", ".join(args.failed) or "no route could be measured"}')
