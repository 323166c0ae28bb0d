"""Time the routes of a fused backbone side by side, with the machine's floor.

    python benchmarks/backbone.py [--arch 13] [--size 800 1280] [--repeat 5] [--out result.json]

On the CPU: eager float32 channels-first and channels-last, eager bfloat16, accelerated float32 and
bfloat16; from one export OpenVINO in float32, bfloat16 and 8 bits, ONNX Runtime in float32 and 8
bits. On CUDA, channels-last: eager float32 without TF32 and eager float16; accelerated in both,
compiled, and with a CUDA graph. Each route has its own process, because accelerate() changes how a
process allocates; the routes take turns. Routes without their package or instructions are left out.
Times are medians in ms. The floor is the net's multiply-adds over the rate of a matrix product in
the same dtype, measured in the same run; for 8 bits half of bfloat16's. The error is the relative
L2 error of the worst level, against the first route.
"""

import argparse
import multiprocessing
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import side_by_side
import torch
from side_by_side import DTYPES, Call
from torch import Tensor

from mmvanilla import UserError, VanillaNet, accelerate
from mmvanilla.benchmark.counting import count
from mmvanilla.benchmark.model import calibrate
from mmvanilla.deploy.export.pooling import make_exportable
from mmvanilla.deploy.export.quantize import quantize

CPU_ROUTES = {
    'eager channels-first fp32': 'fp32',
    'eager channels-last fp32': 'fp32',
    'eager channels-last bf16': 'bf16',
    'accelerated fp32': 'fp32',
    'accelerated bf16': 'bf16',
    'OpenVINO fp32': 'fp32',
    'OpenVINO bf16': 'bf16',
    'OpenVINO int8': 'int8',
    'ONNX Runtime fp32': 'fp32',
    'ONNX Runtime int8': 'int8',
}
CUDA_ROUTES = {
    'eager channels-last fp32': 'fp32',
    'eager channels-last fp16': 'fp16',
    'accelerated fp32': 'fp32',
    'accelerated fp16': 'fp16',
    'accelerated fp16, compiled': 'fp16',
    'accelerated fp16, CUDA graph': 'fp16',
}
ROUTES = dict(cpu=CPU_ROUTES, cuda=CUDA_ROUTES)


def make_net(args: argparse.Namespace) -> VanillaNet:
    """Return a fused net with calibrated batch norms."""
    torch.manual_seed(0)
    net = VanillaNet(args.arch, act_num=args.act_num).eval().requires_grad_(False)
    calibrate(net)
    net.switch_to_deploy()
    return net


def load_net(args: argparse.Namespace) -> VanillaNet:
    """Return the fused net from ``args.weights``."""
    with torch.device('meta'):
        net = VanillaNet(args.arch, act_num=args.act_num, deploy=True)
    net.load_state_dict(torch.load(args.weights, weights_only=True), assign=True)
    return net.eval().requires_grad_(False)


def make_image(args: argparse.Namespace) -> Tensor:
    """Return a normalised image, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(args.batch_size, 3, *args.size, generator=generator)


def layer_by_layer(net: VanillaNet, x: Tensor) -> tuple[Tensor, ...]:
    """Run the layers in the input's layout; the net switches to channels-last on the CPU."""
    outs = [x := net.stem(x)]
    outs += [x := stage(x) for stage in net.stages]
    return tuple(outs[i + 1] for i in net.out_stages)


def multiply_adds(args: argparse.Namespace) -> int:
    """Return the multiply-adds of one batch."""
    net, x = load_net(args), make_image(args)
    return count(net, lambda: net(x)).multiply_adds


@torch.no_grad()
def make(route: str, args: argparse.Namespace) -> tuple[Call, dict]:
    """Return the call of a route for one batch, and its outputs."""
    torch.backends.cudnn.allow_tf32 = False
    call = torch.no_grad()(make_call(route, args))
    return call, dict(outputs=[out.float().cpu().numpy() for out in call()])


def make_call(route: str, args: argparse.Namespace) -> Call:
    """Return the call of a route for one batch."""
    net, x = load_net(args).to(args.device), make_image(args).to(args.device)
    dtype = ROUTES[args.device][route]
    if route.startswith('accelerated'):
        compile, graph = route.endswith('compiled'), route.endswith('CUDA graph')
        accelerate(net, dtype=dtype, compile=compile, cuda_graph=graph)
        return lambda: net(x)
    if route.startswith('eager'):
        layout = torch.contiguous_format if 'first' in route else torch.channels_last
        net.to(DTYPES[dtype], memory_format=layout)
        x = x.to(DTYPES[dtype], memory_format=layout)
        return lambda: layer_by_layer(net, x)
    file = exported(net, x, Path(args.weights).parent, eight_bits=dtype == 'int8')
    if route.startswith('OpenVINO'):
        return openvino_call(file, x, 'f32' if dtype == 'fp32' else 'bf16', args.threads)
    return onnxruntime_call(file, x, args.threads)


def exported(net: VanillaNet, x: Tensor, folder: Path, eight_bits: bool) -> str:
    """Return the file of the net for one image size, in 32 bits, or in 8 calibrated on noise.

    The first route that needs the file writes it; routes are built one after the other.
    """
    file = folder / ('eight_bits.onnx' if eight_bits else 'net.onnx')
    if file.exists():
        return str(file)
    unfinished = str(folder / 'unfinished.onnx')
    if eight_bits:
        shutil.copy(exported(net, x, folder, eight_bits=False), unfinished)
        generator = torch.Generator().manual_seed(1)
        quantize(unfinished, [torch.randn(x.shape, generator=generator).numpy() for _ in range(2)])
    else:
        options = dict(input_names=['image'], dynamo=True, external_data=False, verbose=False)
        torch.onnx.export(make_exportable(net), (x,), unfinished, **options)
    return shutil.move(unfinished, str(file))


def quantize_first(net: VanillaNet, args: argparse.Namespace) -> None:
    """Quantize before the routes hold memory: 800 x 1280 takes 8 GiB until the process ends.

    If this fails, the first route in 8 bits fails again and reports the reason.
    """
    task = (net, make_image(args), Path(args.weights).parent, True)
    worker = multiprocessing.get_context('spawn').Process(target=exported, args=task)
    worker.start()
    worker.join()


def openvino_call(file: str, x: Tensor, precision: str, threads: int) -> Call:
    """Open an exported net and return its call; operators in 8 bits stay in 8 bits."""
    import openvino

    options = dict(
        INFERENCE_PRECISION_HINT=precision,
        PERFORMANCE_HINT='LATENCY',
        INFERENCE_NUM_THREADS=threads,
    )
    compiled = openvino.compile_model(openvino.convert_model(file), 'CPU', options)
    image = x.numpy()
    return lambda: tuple(torch.from_numpy(out) for out in compiled(image).values())


def onnxruntime_call(file: str, x: Tensor, threads: int) -> Call:
    """Open an exported net and return its call, in the precision of the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    return lambda: tuple(torch.from_numpy(out) for out in session.run(None, {'image': x.numpy()}))


def relative_error(outputs: list, references: list) -> float:
    """Return the largest relative L2 error of a level."""
    pairs = [
        [torch.from_numpy(level).double() for level in levels]
        for levels in zip(outputs, references, strict=True)
    ]
    return max(((mine - its).norm() / its.norm()).item() for mine, its in pairs)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    side_by_side.add_net_arguments(parser)
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    routes = side_by_side.pick(list(ROUTES[args.device]), args, parser)
    try:
        net = make_net(args)
    except UserError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        args.weights = str(Path(folder, 'net.pth'))
        torch.save(net.state_dict(), args.weights)
        giga = multiply_adds(args) / 1e9
        if find_spec('nncf') and 'int8' in {ROUTES[args.device][route] for route in routes}:
            quantize_first(net, args)
        rows = side_by_side.measure(make, routes, args)
        del args.weights
        dtypes = {ROUTES[args.device][route] for route in rows}
        rates = side_by_side.rates({'bf16' if d == 'int8' else d for d in dtypes}, args)
        if 'int8' in dtypes:
            rates['int8'] = 2 * rates['bf16']
    first = next(iter(rows.values()), None)
    for route, row in rows.items():
        row['floor'] = giga / rates[ROUTES[args.device][route]] * 1e3
        row['error'] = relative_error(row['outputs'], first['outputs'])
    columns = {
        'floor, ms': lambda row: f'{row["floor"]:.4g}',
        'error': lambda row: f'{row["error"]:.1e}',
    }
    side_by_side.show(rows, columns, args)
    print(f'{giga:.1f} G multiply-adds; matrix products: ', end='')
    print(', '.join(f'{name} {rate:.0f} G/s' for name, rate in rates.items()))
    side_by_side.write(rows, args, giga=giga, rates=rates)


if __name__ == '__main__':
    main()
