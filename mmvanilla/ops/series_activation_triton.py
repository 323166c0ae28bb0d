"""The series activation as one CUDA kernel, in Triton.

At n = 4 each value needs 81 multiply-adds, so a direct kernel is bound by arithmetic, not memory.
This kernel goes down the rows of an image and holds the partial sums of the 2n + 1 output rows
that the current input row contributes to. Each input value is loaded, pooled and rectified once,
then used (2n + 1)^2 times. After each row the sums move up by one place, at no cost: the first
multiply-add of a row reads one register and writes its neighbour.

A thread computes one channel of a strip of columns and holds the channel's window in registers, so
four of five instructions are multiply-adds. The 32 lanes of a warp are adjacent channels, which
read and write whole segments of channels-last rows. The warps of a block are adjacent strips, whose
overlapping columns are in the L1 cache. While a warp waits for a row, other warps compute.

docs/gpu.md describes the compiled code and why there is no version for tensor cores.
"""

import functools
import subprocess

import torch
import triton
import triton.language as tl
from torch import Tensor

_LANES = tl.constexpr(32)
_STRIPS = tl.constexpr(4)
# Columns of a strip. With more, fewer values are loaded twice but more registers are needed: with 5
# an SM holds three blocks (without pool) or two (with it) at n = 4.
_COLUMNS = tl.constexpr(5)
WARPS = _STRIPS.value  # per block
WIDTH = _STRIPS.value * _COLUMNS.value  # columns per block
MAX_CHUNKS = 16
# Errors of Triton on a GPU that it cannot use: unknown to its compiler or ptxas (TritonError, or
# RuntimeError from LLVM), no driver or the driver refuses the code (RuntimeError), no ptxas or C
# compiler (FileNotFoundError), or the C compiler fails (CalledProcessError).
FAILURES = (triton.TritonError, RuntimeError, FileNotFoundError, subprocess.CalledProcessError)


@triton.jit
def _load_row(pixel, zero, width, readable, C: tl.constexpr, POOL: tl.constexpr):
    """Return max(0, values of a pixel) in float32 for a row of the strip and its margins.

    Values outside the image are 0; nan stays nan, as in PyTorch.
    """
    pixels = ()
    for i in tl.static_range(len(readable)):
        largest = tl.load(pixel + i * POOL * C, mask=readable[i], other=0.0)
        for k in tl.static_range(1, POOL * POOL):
            source = pixel + k // POOL * width * C + (i * POOL + k % POOL) * C
            value = tl.load(source, mask=readable[i], other=0.0)
            largest = tl.maximum(largest, value, propagate_nan=tl.PropagateNan.ALL)
        pixels += (tl.maximum(largest.to(tl.float32), zero, propagate_nan=tl.PropagateNan.ALL),)
    return pixels


@triton.jit
def _store_row(pixel, sums, inside, C: tl.constexpr):
    for t in tl.static_range(len(inside)):
        tl.store(pixel + t * C, sums[t].to(pixel.dtype.element_ty), mask=inside[t])


# Sizes and addresses are not specialized, so one compilation is for images of all sizes. With the
# number of channels as a constant, the values of a row are at constant offsets.
@triton.jit(
    do_not_specialize=['height', 'width', 'out_height', 'out_width', 'chunks'],
    do_not_specialize_on_alignment=['x', 'weight', 'bias', 'out'],
)
def kernel(
    x,
    weight,
    bias,
    out,
    zero,
    height,
    width,
    out_height,
    out_width,
    chunks,
    C: tl.constexpr,
    N: tl.constexpr,
    POOL: tl.constexpr,
) -> None:
    """Compute one strip of one chunk of rows in each warp.

    ``x`` is (images, height, width, C), ``weight`` (2 N + 1, 2 N + 1, C) and ``bias`` (C,) in
    float32, ``out`` (images, out_height, out_width, C), all contiguous. The rows of an image are
    divided into ``chunks``. ``zero`` is 0 in float32, hidden from the compiler, which would rectify
    in packed 16 bit and lose more by packing than it gains. tl.fma compiles twice as fast as
    multiplication and addition.
    """
    SIDE: tl.constexpr = 2 * N + 1
    GROUPS: tl.constexpr = (C + _LANES - 1) // _LANES
    thread = tl.arange(0, _LANES * _STRIPS)
    block = tl.program_id(0)
    channel = block % GROUPS * _LANES + thread % _LANES
    block = block // GROUPS
    across = tl.cdiv(out_width, _STRIPS * _COLUMNS)
    column = (block % across * _STRIPS + thread // _LANES) * _COLUMNS
    block = block // across
    rows = tl.cdiv(out_height, chunks)
    top = block % chunks * rows
    bottom = tl.minimum(top + rows, out_height)
    image = (block // chunks).to(tl.int64)
    first = tl.maximum(top - N, 0)
    last = tl.minimum(bottom + N, out_height) - 1

    exists = channel < C
    window = ()
    for k in tl.static_range(SIDE * SIDE):
        window += (tl.load(weight + k * C + channel, mask=exists, other=0.0),)
    shift = tl.load(bias + channel, mask=exists, other=0.0)
    readable = ()
    end = tl.where(exists, out_width, 0).to(tl.uint32)
    for i in tl.static_range(_COLUMNS + 2 * N):
        readable += ((column + (i - N)).to(tl.uint32) < end,)  # wraps left of the image

    source = x + (image * height + first * POOL) * width * C + (column - N) * POOL * C + channel
    # Input row r completes output row r - N, the target in the loop.
    target = out + (image * out_height + first - N) * out_width * C + column * C + channel
    sums = ()
    for _ in tl.static_range(SIDE * _COLUMNS):
        sums += (shift,)
    for row in range(first, last + 1):
        pixels = _load_row(source, zero, width, readable, C, POOL)
        source += POOL * width * C
        moved = ()
        for j in tl.static_range(SIDE):
            for t in tl.static_range(_COLUMNS):
                total = sums[(j + 1) * _COLUMNS + t] if j < SIDE - 1 else shift
                for k in tl.static_range(SIDE):
                    total = tl.fma(pixels[t + k], window[(SIDE - 1 - j) * SIDE + k], total)
                moved += (total,)
        sums = moved
        inside = ()
        for t in tl.static_range(_COLUMNS):
            inside += (readable[N + t] & (row - N >= top),)
        _store_row(target, sums, inside, C)
        target += out_width * C
    # Below the image are only zeros, so the last N output rows are complete.
    for row in range(last - N + 1, bottom):
        sums = sums[_COLUMNS:] + sums[:_COLUMNS]
        inside = ()
        for t in tl.static_range(_COLUMNS):
            inside += (readable[N + t] & (row >= top),)
        _store_row(target, sums, inside, C)
        target += out_width * C


def launch(x: Tensor, weight: Tensor, bias: Tensor, pool: int, out: Tensor) -> None:
    """Fill ``out`` with the series activation of ``x``.

    Args:
        x: (images, C, H, W), dense in channels-last order.
        weight: (C, 1, 2n + 1, 2n + 1) of any strides and float dtype; copied unless it is in
            float32 with its channels innermost.
        bias: (C,).
        pool: 1 or 2.
        out: (images, C, H // pool, W // pool), dense in channels-last order, not empty.

    Raises:
        FAILURES: If Triton cannot compile or launch the kernel.
    """
    images, channels, height, width = x.shape
    out_height, out_width = out.shape[2:]
    n = weight.shape[-1] // 2
    blocks = images * triton.cdiv(channels, _LANES.value) * triton.cdiv(out_width, WIDTH)
    processors = 1  # of the interpreter, on a CPU
    if x.is_cuda:
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    chunks = choose_chunks(blocks, out_height, n, processors)
    weight = weight.flatten(1).t().to(torch.float32).contiguous()
    bias = bias.to(torch.float32).contiguous()
    sizes = (height, width, out_height, out_width, chunks)
    with torch.cuda.device_of(x):
        kernel[(blocks * chunks,)](
            x, weight, bias, out, 0.0, *sizes, channels, n, pool, num_warps=WARPS
        )


@functools.lru_cache(maxsize=4096)
def choose_chunks(blocks: int, rows: int, n: int, processors: int) -> int:
    """Return the best number of chunks for the rows of an image.

    More chunks load the GPU more evenly, but each also reads n rows above and below its own. The
    estimated time is that of the processor with most rows; it computes two blocks in the time of
    one, which waits for memory.

    Args:
        blocks: Blocks of all images with one chunk.
        rows: Rows of an output image.
        n: Half the width of the window.
        processors: Streaming multiprocessors of the GPU.
    """

    def cost(chunks: int) -> int:
        busiest = max(triton.cdiv(blocks * chunks, processors), 2)
        return busiest * (triton.cdiv(rows, chunks) + n * min(chunks - 1, 2))

    return min(range(1, min(MAX_CHUNKS, rows) + 1), key=cost)
