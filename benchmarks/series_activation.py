"""Compare the fused series activation on a GPU with PyTorch's operators and its floors.

    python benchmarks/series_activation.py [--arch 13] [--size 800 1280] [--out result.json]

For every activation of the net and every dtype: the fused operator, and PyTorch's max-pool, ReLU
and depthwise convolution, channels-last, with cudnn.benchmark. CUDA graphs call each on several
inputs in turn, more than the cache holds, and the graphs take turns. Times are medians in us for
one call. The floors are the bytes moved (input, weight and bias read once, output written once)
over the bandwidth of a copy, measured in this run, and the multiply-adds over --tflops, the fp32
rate. Errors are relative L2 errors against float64. benchmarks/kernels.py predicts the fused
operator's times. --device cpu rehearses the script without a GPU, with PyTorch's operators for both
routes and meaningless figures.
"""

import argparse
import json
import math
import platform
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from mmvanilla import UserError, VanillaNet
from mmvanilla.benchmark import Conditions, in_turn, writing
from mmvanilla.ops.series_activation import channels_innermost, series_activation

TYPES = {'fp16': torch.float16, 'bf16': torch.bfloat16, 'fp32': torch.float32}
TURN = 2  # ms, shortest turn
QUEUED = 20  # calls timed together
COLUMNS = dict(
    layer='input',
    pool='pool',
    count='layers',
    dtype='type',
    fused='fused',
    library='library',
    gain='library / fused',
    bytes_floor='bytes floor',
    compute_floor='plain fp32 floor',
    ratio='fused / larger floor',
    error='error',
    library_error='library error',
)


class Layer(NamedTuple):
    """A series activation with its max-pool: input shape, pool and n."""

    shape: tuple[int, int, int, int]
    pool: int
    n: int

    def multiply_adds(self) -> int:
        """Return the multiply-adds of the depthwise convolution."""
        batch, channels, height, width = self.shape
        outputs = batch * channels * (height // self.pool) * (width // self.pool)
        return outputs * (2 * self.n + 1) ** 2

    def bytes_moved(self, item: int) -> int:
        """Return the bytes of input, output, weight and bias, with ``item`` bytes a value."""
        batch, channels, height, width = self.shape
        outputs = batch * channels * (height // self.pool) * (width // self.pool)
        window = channels * ((2 * self.n + 1) ** 2 + 1)
        return (math.prod(self.shape) + outputs + window) * item


def find_layers(arch: str, act_num: int, shape: tuple[int, int, int, int]) -> Counter[Layer]:
    """Return the net's activations, in order, with how often each occurs.

    Args:
        arch: Variant of VanillaNet.
        act_num: Its n.
        shape: Shape of the images.

    Raises:
        UserError: If the variant pools adaptively, which the fused operator does not.
    """
    with torch.device('meta'):
        net = VanillaNet(arch, act_num=act_num, deploy=True).eval().requires_grad_(False)
        images = torch.empty(shape)
    layers = Counter()

    def note(pool: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda module, args: layers.update([Layer(tuple(args[0].shape), pool, act_num)])

    net.stem[1].register_forward_pre_hook(note(1))
    for stage in net.stages:
        if isinstance(stage.pool, nn.Identity):
            stage.act.register_forward_pre_hook(note(1))
        elif isinstance(stage.pool, nn.MaxPool2d):
            stage.pool.register_forward_pre_hook(note(stage.pool.kernel_size))
        else:
            raise UserError(f'VanillaNet-{arch} pools adaptively; choose another --arch')
    net(images)
    assert layers.total() == 1 + len(net.stages)
    return layers


def library(x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
    """Compute the series activation by PyTorch's operators, one after the other."""
    if pool > 1:
        x = F.max_pool2d(x, pool)
    return F.conv2d(F.relu(x), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def capture(call: Callable[[Tensor], object], inputs: list[Tensor], rounds: int) -> Callable:
    """Return what replays a CUDA graph of ``rounds`` calls on each input; on the CPU, calls."""
    if not inputs[0].is_cuda:
        return lambda: [call(x) for _ in range(rounds) for x in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for x in inputs[:2]:
            call(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            # Held to the end of the round, so that outputs do not share cached memory.
            outputs = [call(x) for x in inputs]
            del outputs
    return graph.replay


def time_in_turn(calls: dict[str, Callable], repeats: int, device: str) -> dict[str, float]:
    """Time calls in turn after three warm-up rounds; return medians in us."""
    many = QUEUED if device == 'cuda' else 1  # enough to hide the launches

    def queued(turn: int, call: Callable) -> Callable:
        return lambda: [call() for _ in range(many)]

    prepares = {name: partial(queued, call=call) for name, call in calls.items()}
    times = in_turn(prepares, repeats, 3, Conditions(device, min_ms=TURN))
    return {name: values.median / many * 1e3 for name, values in times.items()}


def copy_bandwidth(repeats: int, device: str) -> float:
    """Return the bytes per second, read and written, of a large copy."""
    source = torch.randn(2**28 if device == 'cuda' else 2**22, device=device)
    target = torch.empty_like(source)
    time = time_in_turn({'copy': lambda: target.copy_(source)}, repeats, device)['copy']
    return 2 * source.nbytes / (time * 1e-6)


def relative_error(out: Tensor, exact: Tensor) -> float:
    """Return the L2 norm of the difference over that of ``exact``."""
    return ((out.double() - exact).norm() / exact.norm()).item()


def measure(layer: Layer, dtype: str, repeats: int, device: str) -> dict[str, object]:
    """Return times in us and errors of both routes for a layer and dtype."""
    random = dict(device=device, dtype=TYPES[dtype])
    channels, side = layer.shape[1], 2 * layer.n + 1
    moved = layer.bytes_moved(TYPES[dtype].itemsize)
    cuda = device == 'cuda'
    cache = torch.cuda.get_device_properties('cuda').L2_cache_size if cuda else 0
    inputs = [
        torch.randn(layer.shape, **random).to(memory_format=torch.channels_last)
        for _ in range(max(3, math.ceil(4 * cache / moved)))
    ]
    weight = torch.randn(channels, 1, side, side, **random) / side
    bias = torch.randn(channels, **random)
    x = inputs[0]
    exact = library(x.double().contiguous(), weight.double(), bias.double(), layer.pool)
    laid_out, shift = channels_innermost(weight).float(), bias.float()  # as accelerate() does
    poison = torch.full_like(exact, math.nan, dtype=x.dtype)
    del poison  # outputs reuse this memory, so that unwritten values show
    routes = {
        'fused': lambda x: series_activation(x, laid_out, shift, layer.pool),
        'library': lambda x: library(x, weight, bias, layer.pool),
    }
    errors = {name: relative_error(call(x), exact) for name, call in routes.items()}
    del exact
    rounds = max(1, math.ceil(20 / len(inputs)))
    calls = {name: capture(call, inputs, rounds) for name, call in routes.items()}
    times = time_in_turn(calls, repeats, device)
    times = {name: time / (rounds * len(inputs)) for name, time in times.items()}
    return times | dict(error=errors['fused'], library_error=errors['library'])


def compare(
    layer: Layer, count: int, dtype: str, measured: dict, bandwidth: float, flops: float
) -> dict[str, object]:
    """Return a row of measurements, floors in us, and ratios."""
    bytes_floor = layer.bytes_moved(TYPES[dtype].itemsize) / bandwidth * 1e6
    compute_floor = 2 * layer.multiply_adds() / flops * 1e6
    return dict(
        layer=' x '.join(map(str, layer.shape)),
        pool=layer.pool,
        count=count,
        dtype=dtype,
        **measured,
        bytes_floor=bytes_floor,
        compute_floor=compute_floor,
        gain=measured['library'] / measured['fused'],
        ratio=measured['fused'] / max(bytes_floor, compute_floor),
    )


def total(rows: list[dict], dtype: str) -> dict[str, object]:
    """Return the row of the whole net in a dtype; its ratio is to the sum of the larger floors."""
    rows = [row for row in rows if row['dtype'] == dtype]

    def add(value: Callable[[dict], float]) -> float:
        return sum(row['count'] * value(row) for row in rows)

    times = {
        name: add(lambda row, name=name: row[name])
        for name in ('fused', 'library', 'bytes_floor', 'compute_floor')
    }
    floor = add(lambda row: max(row['bytes_floor'], row['compute_floor']))
    return dict(
        layer='all',
        count=sum(row['count'] for row in rows),
        dtype=dtype,
        **times,
        gain=times['library'] / times['fused'],
        ratio=times['fused'] / floor,
    )


def format_cell(name: str, value: object) -> str:
    """Format a value for the table."""
    if not isinstance(value, float):
        return str(value)
    return f'{value:.0e}' if name.endswith('error') else f'{value:.2f}'


def print_table(rows: list[dict]) -> None:
    """Print the rows in Markdown."""
    print('| ' + ' | '.join(COLUMNS.values()) + ' |')
    print('|' + '---|' * len(COLUMNS))
    for row in rows:
        cells = [format_cell(name, row.get(name, '')) for name in COLUMNS]
        print('| ' + ' | '.join(cells) + ' |')


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', default='13', help='variant')
    parser.add_argument('--act-num', type=int, default=4, help='n of the series activation')
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1280), help='height and width')
    parser.add_argument('--batch', type=int, default=1, help='images at once')
    parser.add_argument('--types', nargs='+', choices=TYPES, default=list(TYPES), help='types')
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], default='cuda', help='cpu: a rehearsal'
    )
    parser.add_argument('--repeats', type=int, default=30, help='timed rounds')
    parser.add_argument(
        '--tflops', type=float, default=67, help='fp32 rate of the GPU; 67 for an H200'
    )
    parser.add_argument('--out', help='JSON file to write')
    args = parser.parse_args()
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('no NVIDIA GPU is found; use a GPU and PyTorch with CUDA, or --device cpu')
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    try:
        layers = find_layers(args.arch, args.act_num, (args.batch, 3, *args.size))
    except UserError as error:
        parser.error(str(error))
    bandwidth = copy_bandwidth(args.repeats, args.device)
    rows = []
    cases = [(layer, count, dtype) for dtype in args.types for layer, count in layers.items()]
    with torch.inference_mode():
        for layer, count, dtype in track(cases, 'Measuring'):
            measured = measure(layer, dtype, args.repeats, args.device)
            rows.append(compare(layer, count, dtype, measured, bandwidth, args.tflops * 1e12))
            torch.cuda.empty_cache()
    rows += [total(rows, dtype) for dtype in args.types]
    machine = dict(
        gpu=torch.cuda.get_device_name() if args.device == 'cuda' else 'none',
        copy_bandwidth=bandwidth,
        tflops=args.tflops,
        python=platform.python_version(),
        torch=torch.__version__,
        triton=version('triton') if find_spec('triton') else 'none',
    )
    if args.out:
        with writing(args.out) as file, open(file, 'w') as stream:
            json.dump(dict(machine=machine, unit='us', rows=rows), stream, indent=1)
    print(', '.join(f'{name} {value}' for name, value in machine.items()))
    batch, (height, width) = args.batch, args.size
    print(f'VanillaNet-{args.arch}, act_num={args.act_num}, {batch} x 3 x {height} x {width}, us\n')
    print_table(rows)


if __name__ == '__main__':
    main()
