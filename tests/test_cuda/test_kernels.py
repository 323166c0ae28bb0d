"""Kernels compiled for GPUs, without a GPU: no spills, few instructions besides the arithmetic.

Triton caches compiled kernels on disk, so that only the first run takes long.
"""

from pathlib import Path

import pytest

from mmvanilla.models.archs import ARCHS
from mmvanilla.ops.series_activation import _HAS_TRITON

if not _HAS_TRITON:
    pytest.skip('needs Triton 3.5', allow_module_level=True)
from triton import knobs

from mmvanilla.ops.series_activation_triton import FAILURES, WARPS, WIDTH

try:
    assert knobs.nvidia.ptxas.path
    assert knobs.nvidia.nvdisasm.path
    assert knobs.nvidia.cuobjdump.path
except RuntimeError as error:
    pytest.skip(f'needs what comes with Triton: {error}', allow_module_level=True)

FOLDER = Path(__file__).parents[2] / 'benchmarks'
TYPES = ['fp16', 'bf16', 'fp32']
PAIRS = {  # channels and pool of the published nets
    (channels, 2 if stride == 2 and not arch.get('ada_pool') else 1)
    for arch in ARCHS.values()
    for channels, stride in zip(arch['dims'], (1, *arch['strides']), strict=True)
}

# Kernels with one spill, where ptxas uses at most 80 registers; no shipped config has them.
SPILLS_ONE = [(86, 'fp32', 2, 1), (89, 'fp32', 2, 1), (120, 'fp16', 1, 2), (120, 'bf16', 1, 2)]


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__('kernels')


def check(compiled):
    """Assert that a compiled kernel is as designed."""
    code, n, pool = compiled.sass, compiled.n, compiled.pool
    one = (compiled.capability, compiled.dtype, n, pool) in SPILLS_ONE
    spilled = code.spills <= 6 * one and code.stack <= 8 * one
    assert spilled, f'{code} spills: sums and window are to stay in registers'
    assert (code.shared, compiled.shared) == (0, 0), 'it is to need no shared memory'
    # Each scheduler of a multiprocessor has a warp of a block; another warp hides its waits.
    three = (n, pool) == (4, 1) and compiled.capability <= 90
    assert compiled.blocks() >= (3 if three else 2)
    columns = WIDTH // WARPS
    multiply_adds = columns * (2 * n + 1) ** 2
    loop = code.loop
    # No product is computed twice; ptxas moves some registers by multiplying by 1.
    assert 0 <= loop['FFMA'] + 2 * loop['FFMA2'] - multiply_adds <= columns
    assert loop['FADD'] == loop['FMUL'] == 0, 'products are to be added right away'
    values = (columns + 2 * n) * pool**2
    assert loop['LDG'] == values
    assert loop['STG'] == columns
    # Each value is loaded, preset to 0, converted and compared. Before sm_80 there is no max.NaN.
    most = {1: 11, 2: 7} if compiled.capability >= 80 else {1: 15, 2: 11}
    assert loop.total() <= multiply_adds + most[pool] * values


@pytest.mark.parametrize('pool', [1, 2])
@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('capability', [80, 90])
def test_the_published_net(capability, dtype, pool, kernels):
    check(kernels.compile_and_read(capability, dtype, 2048, 4, pool))


@pytest.mark.parametrize('pool', [1, 2])
@pytest.mark.parametrize('capability', [80, 90])
def test_the_default_window(capability, pool, kernels):
    check(kernels.compile_and_read(capability, 'fp16', 2048, 3, pool))


@pytest.mark.slow
@pytest.mark.parametrize('pool', [1, 2])
@pytest.mark.parametrize('n', [1, 2, 3, 4])
@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('capability', [75, 80, 86, 89, 90, 100, 120])
def test_every_architecture_type_and_window(capability, dtype, n, pool, kernels):
    check(kernels.compile_and_read(capability, dtype, 2048, n, pool))


@pytest.mark.slow
@pytest.mark.parametrize('n', [3, 4])
@pytest.mark.parametrize(('channels', 'pool'), sorted(PAIRS))
def test_every_number_of_channels(channels, pool, n, kernels):
    check(kernels.compile_and_read(90, 'fp16', channels, n, pool))


def test_a_spill_is_found(kernels):
    compiled = kernels.compile_kernel(90, 'fp16', 2048, 3, 1, maxnreg=64)
    code = kernels.read(compiled.asm['cubin'])
    assert code.registers <= 64
    assert code.spills
    assert code.stack
    with pytest.raises(AssertionError, match='stay in registers'):
        check(kernels.Compiled(90, 'fp16', 2048, 3, 1, code, compiled.metadata.shared))


def test_an_unknown_architecture_is_a_failure_of_triton(kernels, capfd):
    """The operator then falls back to PyTorch; see test_series_activation.py."""
    with pytest.raises(FAILURES):
        kernels.compile_kernel(199, 'fp16', 32, 1, 1)


def test_the_time_of_more_work_is_longer(kernels):
    compiled = kernels.compile_and_read(90, 'fp16', 2048, 3, 1)
    (gpu, *_) = kernels.GPUS
    small, wide, many = (
        kernels.predict(kernels.Layer(shape, 1, 3), compiled, gpu)
        for shape in [(1, 2048, 50, 80), (1, 2048, 50, 160), (8, 2048, 50, 80)]
    )
    for layer in (small, wide, many):
        units = [layer[name] for name in ('issue', 'fp32', 'other', 'memory', 'bytes')]
        assert layer['predicted'] == max(units) > layer['floor'] * 0.999
    assert 1.4 < wide['predicted'] / small['predicted'] < 2.6
    assert 6 < many['predicted'] / small['predicted'] < 10
