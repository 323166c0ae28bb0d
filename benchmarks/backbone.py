"""Time the routes of a fused backbone side by side, with the machine's floor beside them.

    python benchmarks/backbone.py [--arch 13] [--size 800 1280] [--repeat 5] [--out result.json]

On the CPU: stock eager float32 channels-first, and channels-last; eager bfloat16; accelerated in
float32 and bfloat16; OpenVINO in both; ONNX Runtime. Every route has a process of its own, since
accelerate() changes how a process allocates; the routes take turns. On CUDA (--device cuda): eager
float16 channels-last, accelerated, and accelerated with a CUDA graph, in one process. Routes whose
packages or instructions are missing are left out with a word. Times are medians in ms. The floor
is the net's multiply-adds over the rate of a matrix product in that precision, measured in the same
run. Errors are relative to float32, by the L2 norm, of the worst level.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import linear

from mmvanilla import VanillaNet, accelerate
from mmvanilla.errors import UserError
from mmvanilla.measure.counting import count
from mmvanilla.measure.machine import describe
from mmvanilla.measure.subject import calibrate
from mmvanilla.measure.timing import Clock
from mmvanilla.utils.cli import one_sentence_errors
from mmvanilla.utils.files import writing

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
CPU_ROUTES = {
    'eager channels-first fp32': 'fp32',
    'eager channels-last fp32': 'fp32',
    'eager channels-last bf16': 'bf16',
    'accelerated fp32': 'fp32',
    'accelerated bf16': 'bf16',
    'OpenVINO fp32': 'fp32',
    'OpenVINO bf16': 'bf16',
    'ONNX Runtime fp32': 'fp32',
}
CUDA_ROUTES = {
    'eager channels-last fp16': 'fp16',
    'accelerated fp16': 'fp16',
    'accelerated fp16, CUDA graph': 'fp16',
}
ROWS = 4000  # of the matrix product whose rate is the floor's: the pixels at stride 16
Call = Callable[[], tuple[Tensor, ...]]


def make_net(args: argparse.Namespace) -> VanillaNet:
    """Return a fused net with natural statistics."""
    torch.manual_seed(0)
    net = VanillaNet(args.arch, act_num=args.act_num).eval().requires_grad_(False)
    calibrate(net)
    net.switch_to_deploy()
    return net


def load_net(args: argparse.Namespace) -> VanillaNet:
    """Return the fused net that was written to ``args.weights``."""
    with torch.device('meta'):
        net = VanillaNet(args.arch, act_num=args.act_num, deploy=True)
    net.load_state_dict(torch.load(args.weights, weights_only=True), assign=True)
    return net.eval().requires_grad_(False)


def make_image(args: argparse.Namespace) -> Tensor:
    """Return a normalised image, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(args.batch_size, 3, *args.size, generator=generator)


def layer_by_layer(net: VanillaNet, x: Tensor) -> tuple[Tensor, ...]:
    """Run the layers in the layout of the input; the net itself goes channels-last on the CPU."""
    outs = [x := net.stem(x)]
    outs += [x := stage(x) for stage in net.stages]
    return tuple(outs[i + 1] for i in net.out_stages)


def multiply_adds(args: argparse.Namespace) -> int:
    """Count what the net does for one batch."""
    net, x = load_net(args), make_image(args)
    return count(net, lambda: net(x)).multiply_adds


def make_call(route: str, args: argparse.Namespace) -> Call:
    """Return what a route calls for one batch."""
    net, x = load_net(args).to(args.device), make_image(args).to(args.device)
    dtype = route.split()[-1] if args.device == 'cpu' else 'fp16'
    if route.startswith('accelerated'):
        accelerate(net, dtype=dtype, cuda_graph=route.endswith('CUDA graph'))
        return lambda: net(x)
    if route.startswith('eager'):
        layout = torch.contiguous_format if 'first' in route else torch.channels_last
        net.to(DTYPES[dtype], memory_format=layout)
        x = x.to(DTYPES[dtype], memory_format=layout)
        return lambda: layer_by_layer(net, x)
    with tempfile.TemporaryDirectory() as folder:
        if route.startswith('OpenVINO'):
            return openvino_call(net, x, 'f32' if dtype == 'fp32' else 'bf16', args.threads)
        return onnxruntime_call(net, x, folder, args.threads)


def openvino_call(net: nn.Module, x: Tensor, precision: str, threads: int) -> Call:
    """Convert the net and return a call of it in a precision."""
    import openvino

    model = openvino.convert_model(net, example_input=x)
    options = dict(
        INFERENCE_PRECISION_HINT=precision,
        PERFORMANCE_HINT='LATENCY',
        INFERENCE_NUM_THREADS=threads,
    )
    compiled = openvino.compile_model(model, 'CPU', options)
    image = x.numpy()
    return lambda: tuple(torch.from_numpy(out) for out in compiled(image).values())


def onnxruntime_call(net: nn.Module, x: Tensor, folder: str, threads: int) -> Call:
    """Export the net and return a call of it."""
    import onnxruntime

    file = str(Path(folder, 'net.onnx'))
    torch.onnx.export(net, (x,), file, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: tuple(torch.from_numpy(out) for out in session.run(None, feed))


def gemm_rate(dtype: torch.dtype, args: argparse.Namespace) -> float:
    """Return the G multiply-adds a second of a product like those of the net's widest part."""
    width = 2048
    a = torch.randn(ROWS, width, device=args.device).to(dtype)
    weight = torch.randn(width, width, device=args.device).to(dtype)
    linear(a, weight)
    clock = Clock(args.device)
    return ROWS * width * width / min(clock(lambda: linear(a, weight)) for _ in range(5)) / 1e6


@torch.no_grad()
def work(route: str, args: argparse.Namespace, pipe: Connection) -> None:
    """Serve the calls of one route in a process of its own."""
    torch.set_num_threads(args.threads)
    try:
        call = make_call(route, args)
        outputs = [out.float() for out in call()]
    except Exception as error:
        pipe.send(f'{type(error).__name__}: {" ".join(str(error).split())[:200]}')
        return
    pipe.send([out.numpy() for out in outputs])
    clock = Clock()
    while pipe.recv():
        pipe.send(clock(call))


def relative_error(outputs: list[Tensor], references: list[Tensor]) -> float:
    """Return the largest relative L2 error of a level."""
    return max(
        ((mine.double() - its.double()).norm() / its.double().norm()).item()
        for mine, its in zip(outputs, references, strict=True)
    )


def measure_cpu(args: argparse.Namespace, console: Console) -> dict[str, dict]:
    """Measure the routes in turn, each in its own process."""
    context = multiprocessing.get_context('spawn')
    pipes, processes, rows, references = {}, [], {}, None
    for route in track(
        args.routes or CPU_ROUTES, description='building', console=console, transient=True
    ):
        pipe, theirs = context.Pipe()
        process = context.Process(target=work, args=(route, args, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            outputs = pipe.recv()
        except EOFError:
            outputs = 'the process ended, perhaps for want of memory'
        if isinstance(outputs, str):
            console.print(f'{route} is left out: {outputs}', highlight=False)
            continue
        outputs = [torch.from_numpy(out) for out in outputs]
        references = references or outputs  # the first route is the reference
        rows[route] = dict(error=relative_error(outputs, references), times=[])
        pipes[route] = pipe
        processes.append(process)
    names = list(pipes)
    for _ in track(range(args.repeat), description='measuring', console=console, transient=True):
        for name in names:
            pipes[name].send(True)
            rows[name]['times'].append(pipes[name].recv())
        names.append(names.pop(0))
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return rows


@torch.no_grad()
def measure_cuda(args: argparse.Namespace, console: Console) -> dict[str, dict]:
    """Measure the routes in turn."""
    torch.backends.cudnn.benchmark = True
    references = [out.cpu() for out in load_net(args).cuda()(make_image(args).cuda())]
    calls, rows = {}, {}
    for route in args.routes or CUDA_ROUTES:
        calls[route] = make_call(route, args)
        outputs = [out.float().cpu() for out in calls[route]()]
        rows[route] = dict(error=relative_error(outputs, references), times=[])
    clock, names = Clock(args.device), list(calls)
    for turn in track(range(-5, args.repeat), description='measuring', console=console):
        for name in names:
            elapsed = clock(calls[name])
            if turn >= 0:
                rows[name]['times'].append(elapsed)
        names.append(names.pop(0))
    return rows


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', default='13', help='variant (default: %(default)s)')
    parser.add_argument('--act-num', type=int, default=4, help='n (default: %(default)s)')
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1280], metavar=('H', 'W'))
    parser.add_argument('--batch-size', type=int, default=1, metavar='N')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument(
        '--routes',
        nargs='+',
        choices=[*CPU_ROUTES, *CUDA_ROUTES],
        metavar='ROUTE',
        help='only these; the first is what the others are compared with',
    )
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), metavar='N')
    parser.add_argument('--repeat', type=int, default=5, metavar='N', help='rounds that count')
    parser.add_argument('--out', metavar='FILE.json', help='write all figures to FILE.json')
    return parser.parse_args()


def main() -> None:
    """Measure."""
    args = parse_args()
    console = Console(stderr=True)
    with one_sentence_errors(UserError), tempfile.TemporaryDirectory() as folder:
        args.weights = str(Path(folder, 'net.pth'))
        torch.save(make_net(args).state_dict(), args.weights)
        torch.set_num_threads(args.threads)
        giga = multiply_adds(args) / 1e9
        routes = CPU_ROUTES if args.device == 'cpu' else CUDA_ROUTES
        rates = {name: gemm_rate(DTYPES[name], args) for name in sorted(set(routes.values()))}
        rows = (measure_cpu if args.device == 'cpu' else measure_cuda)(args, console)
    first = next(iter(rows))
    table = Table('route', 'ms', 'range', f'gain over {first}', 'floor, ms', 'error')
    for route, row in rows.items():
        row['ms'] = statistics.median(row['times'])
        row['floor'] = giga / rates[routes[route]] * 1e3
        row['gain'] = statistics.median(rows[first]['times']) / row['ms']
        table.add_row(
            route,
            f'{row["ms"]:.1f}',
            f'{min(row["times"]):.1f}-{max(row["times"]):.1f}',
            f'{row["gain"]:.2f}',
            f'{row["floor"]:.1f}',
            f'{row["error"]:.1e}',
        )
    Console().print(table)
    print(f'{giga:.1f} G multiply-adds; matrix products: ', end='')
    print(', '.join(f'{name} {rate:.0f} G/s' for name, rate in rates.items()))
    if args.out:
        machine = describe(args.device)
        del args.weights
        result = dict(vars(args), machine=machine, giga=giga, gemm=rates, routes=rows)
        with writing(args.out) as file:
            Path(file).write_text(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
