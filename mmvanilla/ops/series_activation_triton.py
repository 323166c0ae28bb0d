"""The series activation as one CUDA kernel, in Triton.

It is bound by arithmetic: 81 multiply-adds for every value at n = 4. So the kernel is built such
that nearly everything it issues is a multiply-add. A thread owns one channel of a strip of columns
and walks down the rows. It keeps the channel's whole window in registers, and the partial sums of
the 2n + 1 output rows that the current input row counts in: every input value is loaded, pooled and
rectified once a strip, then used (2n + 1)^2 times. From row to row the sums move up by one place,
at no cost, since each first multiply-add of a row reads one register and writes its neighbour.
The next row is loaded before the current one is worked on, which hides the latency of memory.

The 32 lanes of a warp are neighbouring channels, so that channels-last rows are read and written
in whole segments, without shared memory; the warps of a block are neighbouring strips, so that
the columns in which their windows overlap are found in the L1 cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_LANES = tl.constexpr(32)

# COLUMNS is the width of a strip: a wide one loads fewer columns twice but takes more registers.
# STRIPS is how many of them a block has, one for each of its warps. The rows of an image are shared
# out to `chunks` blocks: more of them occupy the GPU better where images are small, but each reads
# n rows above and below its own.
CONFIGS = tuple(
    triton.Config({'COLUMNS': columns, 'STRIPS': 4, 'chunks': chunks}, num_warps=4)
    for columns in (4, 5, 8)
    for chunks in (1, 2, 4)
)


@triton.jit
def _load_row(pixel, width, readable, C: tl.constexpr, POOL: tl.constexpr):
    """Load what one row of the strip and its margins pools over, 0 beyond the image."""
    values = ()
    for i in tl.static_range(len(readable)):
        for dy in tl.static_range(POOL):
            for dx in tl.static_range(POOL):
                source = pixel + dy * width * C + (i * POOL + dx) * C
                values += (tl.load(source, mask=readable[i], other=0.0),)
    return values


@triton.jit
def _pool_and_rectify(values, zero, POOL: tl.constexpr):
    """Return max(0, values of a pixel) in float32; as in PyTorch, a nan stays one."""
    pixels = ()
    for i in tl.static_range(len(values) // (POOL * POOL)):
        largest = zero
        for k in tl.static_range(POOL * POOL):
            value = values[i * POOL * POOL + k].to(tl.float32)
            largest = tl.maximum(largest, value, propagate_nan=tl.PropagateNan.ALL)
        pixels += (largest,)
    return pixels


@triton.jit
def _store_row(pixel, sums, inside, C: tl.constexpr):
    for t in tl.static_range(len(inside)):
        tl.store(pixel + t * C, sums[t].to(pixel.dtype.element_ty), mask=inside[t])


# No size is specialised: one compilation serves images of all sizes.
@triton.jit(
    do_not_specialize=['height', 'width', 'out_height', 'out_width', 'size_bucket', 'chunks']
)
def _kernel(
    x,
    weight,
    bias,
    out,
    zero,
    height,
    width,
    out_height,
    out_width,
    size_bucket,
    C: tl.constexpr,
    N: tl.constexpr,
    POOL: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIPS: tl.constexpr,
    chunks,
):
    """Compute a chunk of rows of STRIPS strips, in 32 channels of an image.

    ``x`` is (images, height, width, C), ``weight`` (2 N + 1, 2 N + 1, C), ``bias`` (C,) and ``out``
    (images, out_height, out_width, C), all contiguous. ``zero`` is 0 in float32, which the compiler
    must not know: it would then rectify in 16 bit, two values packed in a register, and spend more
    on packing than it saves. ``size_bucket`` is unused; the choice of a config depends on it.
    """
    SIDE: tl.constexpr = 2 * N + 1
    GROUPS: tl.constexpr = (C + _LANES - 1) // _LANES
    thread = tl.arange(0, _LANES * STRIPS)
    block = tl.program_id(0)
    channel = block % GROUPS * _LANES + thread % _LANES
    column = (block // GROUPS * STRIPS + thread // _LANES) * COLUMNS
    rows = tl.cdiv(out_height, chunks)
    top = tl.program_id(1) * rows
    bottom = tl.minimum(top + rows, out_height)
    first = tl.maximum(top - N, 0)
    last = tl.minimum(bottom + N, out_height) - 1
    image = tl.program_id(2).to(tl.int64)

    exists = channel < C
    window = ()
    for k in tl.static_range(SIDE * SIDE):
        window += (tl.load(weight + k * C + channel, mask=exists, other=0.0).to(tl.float32),)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    readable = ()
    for i in tl.static_range(COLUMNS + 2 * N):
        at = column + (i - N)
        readable += (exists & (at >= 0) & (at < out_width),)

    source = x + (image * height + first * POOL) * width * C + (column - N) * POOL * C + channel
    # Row r completes output row r - N, which is where the target stands in the loop.
    target = out + (image * out_height + first - N) * out_width * C + column * C + channel
    sums = ()
    for _ in tl.static_range(SIDE * COLUMNS):
        sums += (shift,)
    pixels = _pool_and_rectify(_load_row(source, width, readable, C, POOL), zero, POOL)
    for row in range(first, last + 1):
        # After the last row there is none to load: it is loaded again and not used.
        source += tl.where(row < last, POOL * width * C, 0)
        coming = _load_row(source, width, readable, C, POOL)
        moved = ()
        for j in tl.static_range(SIDE):
            for t in tl.static_range(COLUMNS):
                total = sums[(j + 1) * COLUMNS + t] if j < SIDE - 1 else shift
                for k in tl.static_range(SIDE):
                    total += pixels[t + k] * window[(SIDE - 1 - j) * SIDE + k]
                moved += (total,)
        sums = moved
        inside = ()
        for t in tl.static_range(COLUMNS):
            inside += (readable[N + t] & (row - N >= top),)
        _store_row(target, sums, inside, C)
        target += out_width * C
        pixels = _pool_and_rectify(coming, zero, POOL)
    # Below the image are only zeros, so that its last N output rows are complete now.
    for j in tl.static_range(1, SIDE - N):
        row = last - N + j
        inside = ()
        for t in tl.static_range(COLUMNS):
            inside += (readable[N + t] & (row >= top) & (row < bottom),)
        _store_row(target, sums[j * COLUMNS : (j + 1) * COLUMNS], inside, C)
        target += out_width * C


tuned = triton.autotune(list(CONFIGS), key=['C', 'N', 'POOL', 'size_bucket'])(_kernel)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    pool: int,
    out: Tensor,
    config: triton.Config | None = None,
) -> None:
    """Fill ``out`` with the series activation of ``x``.

    Args:
        x: (images, C, H, W), dense in channels-last order.
        weight: (C, 1, 2n + 1, 2n + 1) of any strides and float type; one whose channels are
            innermost in memory is not copied.
        bias: (C,).
        pool: 1 or 2.
        out: (images, C, H // pool, W // pool), dense in channels-last order, not empty.
        config: One of :data:`CONFIGS`. None takes the fastest, which is found by timing each the
            first time that a channel count, window, pool, type and order of magnitude of the output
            is met; not possible while a CUDA graph is captured.
    """
    images, channels, height, width = x.shape
    out_height, out_width = out.shape[2:]
    pixels = images * out_height * out_width

    def grid(meta: dict) -> tuple[int, int, int]:
        groups = triton.cdiv(channels, _LANES.value)
        columns = meta['STRIPS'] * meta['COLUMNS']
        return groups * triton.cdiv(out_width, columns), meta['chunks'], images

    arguments = dict(
        x=x,
        weight=weight.flatten(1).t().contiguous(),
        bias=bias.contiguous(),
        out=out,
        zero=0.0,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        size_bucket=min(max(pixels.bit_length(), 8), 20),
        C=channels,
        N=weight.shape[-1] // 2,
        POOL=pool,
    )
    with torch.cuda.device_of(x):
        if config is None:
            tuned[grid](**arguments)
        else:
            _kernel[grid](**arguments, **config.kwargs, num_warps=config.num_warps)
