"""Compile the fused series activation without a GPU, and predict its time on several GPUs.

    python benchmarks/kernels.py [--out docs/kernels.json] [--docs docs/gpu.md]

Compiles the fp16 kernel for every architecture, n and pool that a shipped config uses, and reads
registers and instructions. The prediction adds up the activations of VanillaNet-13: a scheduler
issues one instruction a cycle, and the units for multiply-adds, other arithmetic, and loads and
stores have the throughput that NVIDIA documents. Only the compile time is measured.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from rich.progress import track
from sass import Sass, read
from series_activation import Layer, find_layers
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmvanilla.benchmark import writing
from mmvanilla.benchmark.tables import markdown
from mmvanilla.ops.series_activation_triton import WARPS, WIDTH, choose_chunks, kernel

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
TYPES = {'fp16': 2, 'bf16': 2, 'fp32': 4}  # bytes
REGISTERS = 65536  # of a multiprocessor, on all of these
SCHEDULERS = 4  # of a multiprocessor, on all of these
# Operations of a multiprocessor in a cycle, CUDA C++ Programming Guide, "Arithmetic Instructions".
FP32_LANES = {75: 64, 80: 64, 86: 128, 89: 128, 90: 128, 100: 128, 120: 128}
OTHER_LANES = 64  # comparisons, maxima, conversions, logic
ON_FP32_LANES = ('FFMA', 'FADD', 'FMUL', 'HFMA2', 'HADD2', 'HMUL2', 'IMAD')
MEMORY = ('LDG', 'STG', 'LDL', 'STL')  # one instruction a cycle and multiprocessor
ELSEWHERE = ('BRA', 'CALL')  # issued, but on none of the units
WINDOWS = [(n, pool) for n in (3, 4) for pool in (1, 2)]  # of the shipped configs
UNITS = ('issue', 'fp32', 'other', 'memory', 'bytes', 'predicted', 'floor')
MARKS = ('<!-- written by benchmarks/kernels.py -->', '<!-- end of benchmarks/kernels.py -->')


class Gpu(NamedTuple):
    """A GPU by its data sheet."""

    name: str
    capability: int
    processors: int
    clock: float  # boost, Hz
    bandwidth: float  # of memory, bytes a second

    def flops(self) -> float:
        """Return the plain fp32 rate, a multiply-add counted as two."""
        return 2 * self.processors * FP32_LANES[self.capability] * self.clock


GPUS = (
    Gpu('H200', 90, 132, 1.98e9, 4.8e12),
    Gpu('H100 SXM', 90, 132, 1.98e9, 3.35e12),
    Gpu('A100 80 GB', 80, 108, 1.41e9, 2.04e12),
    Gpu('T4', 75, 40, 1.59e9, 0.32e12),
    Gpu('RTX 3090', 86, 82, 1.695e9, 0.936e12),
    Gpu('RTX 4090', 89, 128, 2.52e9, 1.008e12),
    Gpu('B200', 100, 148, 1.98e9, 8e12),
    Gpu('RTX 5090', 120, 170, 2.407e9, 1.792e12),
)
COPY = 0.9  # share of the bandwidth that a copy reaches: 4.3 of 4.8 TB/s on an H200


class Compiled(NamedTuple):
    """A compiled kernel and its machine code."""

    capability: int
    dtype: str
    channels: int
    n: int
    pool: int
    sass: Sass
    shared: int  # bytes of a block

    def blocks(self) -> int:
        """Return the blocks that fit into a multiprocessor's registers."""
        granted = math.ceil(self.sass.registers / 8) * 8
        return REGISTERS // (granted * 32 * WARPS)

    def instructions(self) -> int:
        """Return the instructions of a thread for one row."""
        return self.sass.loop.total()

    def for_each_multiply_add(self) -> float:
        """Return the instructions of the inner loop per multiply-add."""
        return self.instructions() / ((2 * self.n + 1) ** 2 * WIDTH // WARPS)


def compile_kernel(
    capability: int, dtype: str, channels: int, n: int, pool: int, **options: int
) -> triton.compiler.CompiledKernel:
    """Compile as the operator does on a GPU of a compute capability, such as 90 for 9.0."""
    constants = dict(C=channels, N=n, POOL=pool)
    types = dict.fromkeys(['x', 'out'], f'*{dtype}') | dict.fromkeys(['weight', 'bias'], '*fp32')
    types |= {'zero': 'fp32'} | dict.fromkeys(constants, 'constexpr')
    signature = {name: types.get(name, 'i32') for name in kernel.arg_names}
    target = GPUTarget('cuda', capability, 32)
    options = dict(num_warps=WARPS) | options
    return triton.compile(ASTSource(kernel, signature, constants), target=target, options=options)


def cpu_seconds() -> float:
    """Return the CPU time of this process and its children."""
    return sum(os.times()[:4])


def compile_and_read(*case: int | str) -> Compiled:
    """Compile a kernel and read its machine code."""
    compiled = compile_kernel(*case)
    return Compiled(*case, read(compiled.asm['cubin']), compiled.metadata.shared)


def cycles(compiled: Compiled) -> dict[str, float]:
    """Return the cycles of each unit, per scheduler, for a warp's row."""
    loop = compiled.sass.loop
    fp32 = sum(loop[name] for name in ON_FP32_LANES)
    pairs = loop['FFMA2']  # on Blackwell one instruction, two multiply-adds
    memory = sum(loop[name] for name in MEMORY)
    none = sum(count for name, count in loop.items() if name[0] == 'U' or name in ELSEWHERE)
    total = loop.total()
    return {
        'issue': total,
        'fp32': (fp32 + 2 * pairs) * 32 * SCHEDULERS / FP32_LANES[compiled.capability],
        'other': (total - fp32 - pairs - memory - none) * 32 * SCHEDULERS / OTHER_LANES,
        'memory': memory * SCHEDULERS,
    }


def predict(layer: Layer, compiled: Compiled, gpu: Gpu) -> dict[str, float]:
    """Return a layer's microseconds by unit, the prediction and the floors."""
    images, channels, height, width = layer.shape
    rows, n = height // layer.pool, layer.n
    blocks = images * math.ceil(channels / 32) * math.ceil(width // layer.pool / WIDTH)
    chunks = choose_chunks(blocks, rows, n, gpu.processors)
    busiest = math.ceil(blocks * chunks / gpu.processors)
    high = math.ceil(rows / chunks) + n * min(chunks - 1, 2)
    around = compiled.sass.total - compiled.instructions()  # once in each thread
    times = {
        unit: busiest * (high * row + around * (unit == 'issue')) / gpu.clock * 1e6
        for unit, row in cycles(compiled).items()
    }
    times['bytes'] = layer.bytes_moved(TYPES[compiled.dtype]) / (COPY * gpu.bandwidth) * 1e6
    predicted = max(times.values())
    floor = 2 * layer.multiply_adds() / gpu.flops() * 1e6
    return dict(chunks=chunks, **times, predicted=predicted, floor=max(floor, times['bytes']))


def predict_net(
    layers: dict[Layer, int], dtype: str, compiled: dict[tuple, Compiled]
) -> list[dict[str, object]]:
    """Return, for each GPU, the microseconds of all layers of a net together."""
    rows = []
    for gpu in GPUS:
        total: Counter[str] = Counter()
        for layer, count in layers.items():
            code = compiled[gpu.capability, dtype, layer.shape[1], layer.n, layer.pool]
            times = predict(layer, code, gpu)
            total.update({name: count * times[name] for name in UNITS})
        rows.append(dict(gpu=gpu.name, **total, ratio=total['predicted'] / total['floor']))
    return rows


def report(result: dict) -> str:
    """Return the tables in Markdown."""
    cells: dict[int, list[str]] = {}
    for row in result['kernels']:
        cells.setdefault(row['sm'], []).append(f'{row["registers"]}, {row["ratio"]:.2f}')
    columns = [f'n = {n}, pool {pool}' for n, pool in WINDOWS]
    kernels = [[str(sm), *row] for sm, row in cells.items()]
    gpus = [
        [row['gpu'], *(f'{row[name]:.0f}' for name in UNITS), f'{row["ratio"]:.2f}']
        for row in result['gpus']
    ]
    machine = ', '.join(f'{name} {value}' for name, value in result['machine'].items())
    first, again = result['first_call']
    return '\n\n'.join(
        [
            f'Compiled with {machine}, in fp16. Registers of a thread, and instructions of the '
            'inner loop for each multiply-add:',
            markdown(['sm', *columns], kernels),
            f'The six kernels of VanillaNet-13 (`act_num=4`, fp16, sm_90) compile in {first:.1f} s '
            f'of one core in a new process without a cache, and in {again:.1f} s in the next.',
            'All 12 activations of VanillaNet-13 (`act_num=4`, deploy form, fp16, one image of '
            '800 x 1280) in microseconds: the time of each unit, the time to move the bytes, the '
            '**prediction**, which no GPU has tested, and the floor (the larger of the '
            'multiply-adds at the plain fp32 rate and the bytes):',
            markdown(['gpu', *UNITS, 'predicted / floor'], gpus),
        ]
    )


def write_docs(path: str, text: str) -> None:
    """Replace the text between the marks of a page.

    Raises:
        ValueError: If the marks are missing.
    """
    page = Path(path).read_text()
    before, begin, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f'{path} has no lines {MARKS[0]} and {MARKS[1]}; add both')
    Path(path).write_text(f'{before}{begin}\n\n{text}\n\n{end}{after}')


def compile_net() -> None:
    """Compile the kernels of VanillaNet-13's first call and print the seconds."""
    layers = find_layers('13', 4, (1, 3, 800, 1280))
    start = cpu_seconds()
    for layer in layers:
        compile_kernel(90, 'fp16', layer.shape[1], 4, layer.pool)
    print(cpu_seconds() - start)


def time_the_first_call() -> list[float]:
    """Return the seconds of one core in a new process, without and with Triton's cache."""
    command = [sys.executable, __file__, '--first-call']
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | dict(TRITON_CACHE_DIR=cache)
        return [
            float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
            for _ in range(2)
        ]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument('--docs', help='page whose marked part is replaced')
    parser.add_argument('--first-call', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first_call:
        compile_net()
        return
    layers = find_layers('13', 4, (1, 3, 800, 1280))
    matrix = [
        (capability, 'fp16', 2048, n, pool) for capability in CAPABILITIES for n, pool in WINDOWS
    ]
    net = [
        (capability, 'fp16', layer.shape[1], layer.n, layer.pool)
        for capability in {gpu.capability for gpu in GPUS}
        for layer in layers
    ]
    first_call = time_the_first_call()
    with tempfile.TemporaryDirectory() as cache:
        os.environ['TRITON_CACHE_DIR'] = cache
        cases = track(dict.fromkeys(matrix + net), 'Compiling')
        compiled = {case: compile_and_read(*case) for case in cases}
    machine = dict(
        triton=triton.__version__, torch=torch.__version__, python=platform.python_version()
    )
    kernels = [
        dict(
            sm=each.capability,
            n=each.n,
            pool=each.pool,
            registers=each.sass.registers,
            ratio=each.for_each_multiply_add(),
        )
        for each in (compiled[case] for case in matrix)
    ]
    gpus = predict_net(layers, 'fp16', compiled)
    result = dict(machine=machine, first_call=first_call, kernels=kernels, unit='us', gpus=gpus)
    text = report(result)
    print(text)
    if args.out:
        with writing(args.out) as file, open(file, 'w') as stream:
            json.dump(result, stream, indent=1)
    if args.docs:
        write_docs(args.docs, text)


if __name__ == '__main__':
    main()
