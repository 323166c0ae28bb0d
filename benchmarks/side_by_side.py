"""Ways to compute the same side by side: each in a process of its own, and in turn."""

import argparse
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmvanilla.benchmark.machine import describe
from mmvanilla.benchmark.timing import Clock
from mmvanilla.deploy.accelerate.fast_layers import OneDNNConv, PointwiseConv
from mmvanilla.deploy.files import writing
from mmvanilla.errors import UserError

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
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


def pick(routes: list[str], args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Return the routes that the command line asks for."""
    for name in args.routes or ():
        if name not in routes:
            parser.error(
                f'--routes has {name!r}, expected some of {", ".join(map(repr, routes))} on '
                f'{args.device}'
            )
    return args.routes or routes


def measure(
    make: Make, routes: list[str], args: argparse.Namespace, console: Console
) -> dict[str, dict]:
    """Time every route, in turn.

    Args:
        make: Builds the call of a route, in the route's own process.
        routes: Names; a route whose package or hardware is missing is left out.
        args: With ``device``, ``threads``, ``repeat``. ``left_out`` and ``failed`` are added, the
            reasons by the names of the routes.
        console: Where progress is shown.

    Returns:
        By name, what ``make`` kept, and ``times`` in ms of the routes that ran to the end.
    """
    context = multiprocessing.get_context('spawn')
    args.left_out, args.failed = {}, {}
    rows, workers = {}, {}
    for route in track(routes, description='building', console=console, transient=True):
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(make, route, args, theirs), daemon=True)
        process.start()
        theirs.close()
        answer = _receive(pipe)
        if isinstance(answer, ImportError | UserError):
            args.left_out[route] = _words(answer)
        elif isinstance(answer, Exception):
            args.failed[route] = _words(answer)
        else:
            rows[route], workers[route] = dict(answer, times=[]), (pipe, process)
    names = list(rows)
    for _ in track(range(args.repeat), description='measuring', console=console, transient=True):
        for name in list(names):
            pipe = workers[name][0]
            pipe.send(True)
            answer = _receive(pipe)
            if isinstance(answer, Exception):
                args.failed[name] = _words(answer)
                names.remove(name)
                del rows[name], workers[name]
            else:
                rows[name]['times'].append(answer)
        names = names[1:] + names[:1]
    for pipe, process in workers.values():
        pipe.send(False)
        process.join()
    return rows


def _receive(pipe: Connection) -> object:
    try:
        return pipe.recv()
    except EOFError:
        return RuntimeError('the process ended, perhaps for want of memory')


def _words(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


def _serve(make: Make, route: str, args: argparse.Namespace, pipe: Connection) -> None:
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    try:
        call, kept = make(route, args)
        for _ in range(1 if args.device == 'cpu' else 5):
            call()
        pipe.send(kept)
        clock = Clock(args.device)
        while pipe.recv():
            pipe.send(_turn(call, clock))
    except (ImportError, UserError) as error:
        pipe.send(type(error)(*error.args))  # without what may not fit through the pipe
    except Exception as error:
        pipe.send(RuntimeError(_words(error)))


def _turn(call: Call, clock: Clock) -> float:
    times, total = [], 0.0
    while total < TURN:
        times.append(clock(call))
        total += times[-1]
    return statistics.median(times)


def rates(dtypes: Iterable[str], args: argparse.Namespace) -> dict[str, float]:
    """Return the G multiply-adds a second of matrix products by type, for floors."""
    torch.set_num_threads(args.threads)
    return {dtype: matrix_product_rate(dtype, args) for dtype in sorted(set(dtypes))}


@torch.no_grad()
def matrix_product_rate(dtype: str, args: argparse.Namespace) -> float:
    """Return the G multiply-adds a second of a product like those of the net's widest part.

    On the CPU the faster of PyTorch's matrix product and oneDNN's 1x1 convolution.
    """
    x = torch.randn(1, WIDTH, *PIXELS, device=args.device).to(DTYPES[dtype])
    x = x.contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(WIDTH, WIDTH, 1).to(args.device, DTYPES[dtype])
    ways = [PointwiseConv(conv, DTYPES[dtype])]
    if args.device == 'cpu' and (dtype == 'fp32' or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        ways.append(OneDNNConv(conv, DTYPES[dtype]))
    clock = Clock(args.device)
    calls = 1 if args.device == 'cpu' else 100  # so many that launching them counts for nothing
    best = min(clock(lambda way=way: [way(x) for _ in range(calls)]) for way in ways * 10)
    return math.prod(PIXELS) * WIDTH**2 * calls / best / 1e6


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
