"""What comparisons of routes to the same result share: arguments, floors, a table, a file."""

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
from rich.table import Table
from torch.utils.mkldnn import to_mkldnn

from mmvanilla.benchmark import Conditions, take_turns, writing
from mmvanilla.benchmark.machine import describe
from mmvanilla.benchmark.settings import DTYPES, check_dtype
from mmvanilla.benchmark.timing import Clock

TURN = 300  # ms of calls in a turn, at least one; their median counts
PIXELS, WIDTH = (50, 80), 2048  # of the product that tells the rate: VanillaNet-13 at stride 16
Call = Callable[[], object]
# From a route's name and the arguments: what to time, and what to keep of it besides.
Make = Callable[[str, argparse.Namespace], tuple[Call, dict]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every comparison has."""
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1280], metavar=('H', 'W'))
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where to run (default: %(default)s)',
    )
    parser.add_argument('--routes', nargs='+', metavar='ROUTE', help='only these, by their names')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), metavar='N')
    parser.add_argument('--repeat', type=int, default=5, metavar='N', help='rounds that count')
    parser.add_argument('--out', metavar='FILE.json', help='write all figures to FILE.json')


def add_net_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which backbone sees how many images."""
    parser.add_argument('--arch', default='13', help='variant (default: %(default)s)')
    parser.add_argument('--act-num', type=int, default=4, help='n (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N')


def pick(routes: list[str], args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Return the routes that the command line asks for."""
    for name in args.routes or ():
        if name not in routes:
            parser.error(
                f'--routes has {name!r}, expected some of {", ".join(map(repr, routes))} on '
                f'{args.device}'
            )
    return args.routes or routes


def measure(make: Make, routes: list[str], args: argparse.Namespace) -> dict[str, dict]:
    """Time every route in a process of its own, in turn.

    Args:
        make: Builds the call of a route, in the route's process.
        routes: Names; a route whose package or hardware is missing is left out.
        args: With ``device``, ``threads``, ``repeat``. ``left_out`` and ``failed`` are added, the
            reasons by the names of the routes, and ``disturbances``.

    Returns:
        By name, what ``make`` kept, and ``times`` in ms of the routes that ran to the end.

    Raises:
        KeyboardInterrupt: After ctrl-C.
    """
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    makes = {route: partial(make_route, make, route, args) for route in routes}
    conditions = Conditions(args.device, least=TURN)
    run = take_turns(makes, args.repeat, conditions=conditions, console=Console(stderr=True))
    if not run.complete:
        raise KeyboardInterrupt
    reasons = {route: result.failed for route, result in run.results.items() if result.failed}
    args.left_out = {route: why.reason for route, why in reasons.items() if why.lacking}
    args.failed = {route: why.reason for route, why in reasons.items() if not why.lacking}
    args.disturbances = run.disturbances
    return {
        route: dict(result.kept, times=result.times.values)
        for route, result in run.results.items()
        if route not in reasons
    }


def make_route(make: Make, route: str, args: argparse.Namespace) -> tuple[Callable, dict]:
    """Make a route's call, which is the same in every round."""
    call, kept = make(route, args)
    return lambda turn: call, kept


def rates(dtypes: Iterable[str], args: argparse.Namespace) -> dict[str, float]:
    """Return the G multiply-adds a second of matrix products by type, for floors."""
    return {dtype: matrix_product_rate(dtype, args.device) for dtype in sorted(set(dtypes))}


@torch.no_grad()
def matrix_product_rate(dtype: str, device: str) -> float:
    """Return the G multiply-adds a second of a product like those of the net's widest part.

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
    clock = Clock(device)
    calls = 1 if device == 'cpu' else 100  # so many that launching them counts for nothing
    best = min(clock(lambda way=way: [way() for _ in range(calls)]) for way in ways * 10)
    return math.prod(PIXELS) * WIDTH**2 * calls / best / 1e6


def supported(dtype: str, device: str = 'cpu') -> bool:
    """Tell whether a device computes in a type."""
    try:
        check_dtype(dtype, device)
    except ValueError:
        return False
    return True


def show(
    rows: dict[str, dict], columns: dict[str, Callable[[dict], str]], args: argparse.Namespace
) -> None:
    """Print the medians with their range, the gain over the first route, and further columns.

    Routes that are left out or failed follow with the reason.
    """
    first = next(iter(rows), None)
    table = Table('route', 'ms', 'range', 'gain over the first', *columns)
    for route, row in rows.items():
        row['ms'] = statistics.median(row['times'])
        row['gain'] = statistics.median(rows[first]['times']) / row['ms']
        spread = f'{_ms(min(row["times"]))}-{_ms(max(row["times"]))}'
        cells = [column(row) for column in columns.values()]
        table.add_row(route, _ms(row['ms']), spread, f'{row["gain"]:.2f}', *cells)
    Console(width=120).print(table)
    machine = describe(args.device)
    print(', '.join(f'{name} {value}' for name, value in machine.items()))
    for route, reason in args.left_out.items():
        print(f'{route} is left out: {reason}')
    for route, reason in args.failed.items():
        print(f'{route} failed: {reason}')
    for disturbance in args.disturbances:
        print(f'warning: {disturbance}')


def _ms(value: float) -> str:
    return f'{value:.0f}' if value >= 1000 else f'{value:.4g}'


def write(rows: dict[str, dict], args: argparse.Namespace, **others: object) -> None:
    """Write all figures to ``args.out``, if that is asked for.

    Raises:
        SystemExit: If a route failed, or none could be measured.
    """
    kept = {
        route: {name: value for name, value in row.items() if name != 'outputs'}
        for route, row in rows.items()
    }
    if args.out:
        result = dict(vars(args), machine=describe(args.device), routes=kept, **others)
        with writing(args.out) as file:
            Path(file).write_text(json.dumps(result, indent=1))
    if args.failed or not rows:
        raise SystemExit(f'failed: {", ".join(args.failed) or "no route could be measured"}')
