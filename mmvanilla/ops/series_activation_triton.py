"""The series activation as one CUDA kernel, in Triton: two formulations, of which the faster runs.

Every value takes 81 multiply-adds at n = 4, so arithmetic, not memory, is what a plain kernel waits
for. Both formulations walk down the rows of an image with the partial sums of the 2n + 1 output
rows that the current input row counts in. Every input value is loaded, pooled and rectified once,
then used (2n + 1)^2 times. From row to row the sums move up by one place, at no cost, since each
first multiply-add of a row reads one register and writes its neighbour.

On lanes: a thread owns one channel of a strip of columns and keeps the channel's whole window in
registers, so that nearly everything it issues is a multiply-add. The 32 lanes of a warp are
neighbouring channels and read and write channels-last rows in whole segments; the warps of a block
are neighbouring strips, so that the columns in which their windows overlap are found in the L1
cache. The next row is loaded before the current one is worked on, which hides memory's latency.

On tensor cores, in 16 bit: 8 neighbouring outputs of a row are the 16 inputs around them times a
banded matrix (16, 8) of the channel's weights, one for each row of the window. 16 such strips, of
any rows and images, are one product (16, 16) x (16, 8), the shape of the hardware's instruction; at
n = 4 more than half of the multiplications count (9 of 16). Where an input is infinite or nan, the
zeros beside the band make nan of all 8 outputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Both formulations take the same arguments one by one: a kernel of Triton takes no structure.
_LANES = tl.constexpr(32)
_OUTPUTS = tl.constexpr(8)
_INPUTS = tl.constexpr(16)

# WIDTH is how many columns a block computes: on lanes, 4 to 8 for each of its warps, of which many
# load fewer columns twice but take more registers; on tensor cores, 16 strips of 8. The rows of an
# image are divided into `chunks`: more of them occupy the GPU better where images are small, but
# each reads n rows above and below its own.
CONFIGS = tuple(
    triton.Config(dict(TENSOR_CORES=False, CHANNELS=32, WIDTH=width, chunks=chunks), num_warps=4)
    for width in (16, 20, 32)
    for chunks in (1, 2, 4)
) + tuple(
    triton.Config(dict(TENSOR_CORES=True, CHANNELS=16, WIDTH=128, chunks=chunks), num_warps=warps)
    for warps in (4, 8)
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


@triton.jit
def _on_lanes(
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
    WIDTH: tl.constexpr,
    STRIPS: tl.constexpr,
):
    SIDE: tl.constexpr = 2 * N + 1
    COLUMNS: tl.constexpr = WIDTH // STRIPS
    GROUPS: tl.constexpr = (C + _LANES - 1) // _LANES
    thread = tl.arange(0, _LANES * STRIPS)
    block = tl.program_id(0)
    channel = block % GROUPS * _LANES + thread % _LANES
    column = (block // GROUPS * STRIPS + thread // _LANES) * COLUMNS
    rows = tl.cdiv(out_height, chunks)
    image = (tl.program_id(1) // chunks).to(tl.int64)
    top = tl.program_id(1) % chunks * rows
    bottom = tl.minimum(top + rows, out_height)
    first = tl.maximum(top - N, 0)
    last = tl.minimum(bottom + N, out_height) - 1

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


@triton.jit
def _on_tensor_cores(
    x,
    weight,
    bias,
    out,
    images,
    height,
    width,
    out_height,
    out_width,
    chunks,
    C: tl.constexpr,
    N: tl.constexpr,
    POOL: tl.constexpr,
    CHANNELS: tl.constexpr,
    STRIPS: tl.constexpr,
):
    SIDE: tl.constexpr = 2 * N + 1
    GROUPS: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    dtype: tl.constexpr = x.dtype.element_ty
    block = tl.program_id(0)
    # Axes: channels, strips, columns of a strip.
    channel = block % GROUPS * CHANNELS + tl.arange(0, CHANNELS)[:, None, None]
    exists = channel < C
    strip = block // GROUPS * STRIPS + tl.arange(0, STRIPS)[None, :, None]
    across = tl.cdiv(out_width, _OUTPUTS)
    image = (strip // (across * chunks)).to(tl.int64)
    exists_strip = exists & (image < images)
    rows = tl.cdiv(out_height, chunks)
    top = strip // across % chunks * rows
    bottom = tl.minimum(top + rows, out_height)
    left = strip % across * _OUTPUTS
    column = left - N + tl.arange(0, _INPUTS)[None, None, :]
    readable = exists_strip & (column >= 0) & (column < out_width)
    out_column = left + tl.arange(0, _OUTPUTS)[None, None, :]
    writable = exists_strip & (out_column < out_width)

    tap = tl.arange(0, _INPUTS)[None, :, None] - tl.arange(0, _OUTPUTS)[None, None, :]
    in_band = exists & (tap >= 0) & (tap < SIDE)
    bands = ()
    for j in tl.static_range(SIDE):
        place = channel * SIDE * SIDE + (SIDE - 1 - j) * SIDE + tap
        bands += (tl.load(weight + place, mask=in_band, other=0.0).to(dtype),)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    shift = tl.broadcast_to(shift, (CHANNELS, STRIPS, _OUTPUTS))
    sums = ()
    for _ in tl.static_range(SIDE):
        sums += (shift,)

    first = top - N
    source = x + (image * height + first * POOL) * width * C + column * POOL * C + channel
    target = out + (image * out_height + first - N) * out_width * C + out_column * C + channel
    for i in range(rows + 2 * N):
        row = first + i
        read = readable & (row >= 0) & (row < out_height)
        pixels = tl.full((CHANNELS, STRIPS, _INPUTS), 0, dtype)
        for dy in tl.static_range(POOL):
            for dx in tl.static_range(POOL):
                value = tl.load(source + dy * width * C + dx * C, mask=read, other=0.0)
                largest = tl.maximum(pixels, value, propagate_nan=tl.PropagateNan.ALL)
                pixels = largest.to(dtype)  # bfloat16 is compared as float32
        source += POOL * width * C
        moved = ()
        for j in tl.static_range(SIDE):
            total = sums[j + 1] if j < SIDE - 1 else shift
            moved += (tl.dot(pixels, bands[j], acc=total),)
        sums = moved
        done = writable & (row - N >= top) & (row - N < bottom)
        tl.store(target, sums[0].to(dtype), mask=done)
        target += out_width * C


# No size is specialised: one compilation serves images of all sizes.
@triton.jit(
    do_not_specialize=[
        'images',
        'height',
        'width',
        'out_height',
        'out_width',
        'size_bucket',
        'chunks',
    ]
)
def _kernel(
    x,
    weight,
    lane_weight,
    bias,
    out,
    zero,
    images,
    height,
    width,
    out_height,
    out_width,
    size_bucket,
    chunks,
    C: tl.constexpr,
    N: tl.constexpr,
    POOL: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute by the formulation that the config names.

    ``x`` is (images, height, width, C), ``weight`` (C, 2 N + 1, 2 N + 1), ``lane_weight``
    the same as (2 N + 1, 2 N + 1, C), ``bias`` (C,), ``out`` (images, out_height, out_width, C),
    all contiguous. ``zero`` is 0 in float32, which the compiler must not know: it would then
    rectify in 16 bit, two values packed in a register, and spend more on packing than it saves.
    ``size_bucket`` is unused; the choice of a config depends on it.
    """
    if TENSOR_CORES:
        _on_tensor_cores(
            x, weight, bias, out, images, height, width, out_height, out_width, chunks,
            C, N, POOL, CHANNELS, WIDTH // _OUTPUTS,
        )  # fmt: skip
    else:
        _on_lanes(
            x, lane_weight, bias, out, zero, height, width, out_height, out_width, chunks,
            C, N, POOL, WIDTH, 4,
        )  # fmt: skip


def usable(config: triton.Config, dtype: torch.dtype) -> bool:
    """Whether a config can serve a type: tensor cores do not multiply in full float32."""
    return dtype != torch.float32 or not config.kwargs['TENSOR_CORES']


def _prune(configs: list[triton.Config], _: dict, x: Tensor, **__: object) -> list[triton.Config]:
    return [config for config in configs if usable(config, x.dtype)]


_tuned = triton.autotune(
    list(CONFIGS),
    key=['C', 'N', 'POOL', 'size_bucket'],
    prune_configs_by={'early_config_prune': _prune},
)(_kernel)
_fastest: dict[tuple, triton.Config] = {}


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
        weight: (C, 1, 2n + 1, 2n + 1) of any strides and float type. It is copied unless it is as
            the config's formulation reads it: channels innermost on lanes, else contiguous.
        bias: (C,).
        pool: 1 or 2.
        out: (images, C, H // pool, W // pool), dense in channels-last order, not empty.
        config: One of ``CONFIGS`` that is ``usable``. None takes the fastest, which is
            found by timing each the first time that a channel count, window, pool, type and order
            of magnitude of the output is met.

    Raises:
        ValueError: If the fastest config is to be found while a CUDA graph is captured.
    """
    images, channels, height, width = x.shape
    out_height, out_width = out.shape[2:]
    pixels = images * out_height * out_width

    def grid(meta: dict) -> tuple[int, int]:
        groups, chunks = triton.cdiv(channels, meta['CHANNELS']), meta['chunks']
        if meta['TENSOR_CORES']:
            strips = images * chunks * triton.cdiv(out_width, _OUTPUTS.value)
            return groups * triton.cdiv(strips * _OUTPUTS.value, meta['WIDTH']), 1
        return groups * triton.cdiv(out_width, meta['WIDTH']), chunks * images

    bucket = min(max(pixels.bit_length(), 8), 20)
    key = (x.device, x.dtype, weight.dtype, channels, weight.shape[-1], pool, bucket)
    config = config or _fastest.get(key)
    if config is None and x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            'series_activation is to choose its kernel while a CUDA graph is captured; '
            'call it once on an input of this shape and type before'
        )
    on_lanes = config is None or not config.kwargs['TENSOR_CORES']
    on_tensor_cores = config is None or config.kwargs['TENSOR_CORES']
    arguments = dict(
        x=x,
        weight=weight.contiguous() if on_tensor_cores else weight,
        lane_weight=weight.flatten(1).t().contiguous() if on_lanes else weight,
        bias=bias.contiguous(),
        out=out,
        zero=0.0,
        images=images,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        size_bucket=bucket,
        C=channels,
        N=weight.shape[-1] // 2,
        POOL=pool,
    )
    with torch.cuda.device_of(x):
        if config is None:
            _tuned[grid](**arguments)
            _fastest[key] = _tuned.best_config
        else:
            # With all that the tuning passed: other options would be another kernel to load.
            _kernel[grid](**arguments, **config.all_kwargs())


def fastest() -> dict[tuple, triton.Config]:
    """Return the configs found so far, the latest last."""
    return dict(_fastest)
