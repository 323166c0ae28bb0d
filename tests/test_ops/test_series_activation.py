"""The kernel itself is tested in Triton's interpreter and on a GPU where there is one."""

import heapq
import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import library

from mmvanilla.models import SeriesActivation
from mmvanilla.ops.series_activation import _HAS_TRITON, channels_innermost, series_activation

needs_triton = pytest.mark.skipif(not _HAS_TRITON, reason='needs Triton')
if not hasattr(library, 'custom_op'):
    pytest.skip('there are custom operators from torch 2.4 on', allow_module_level=True)
OPERATOR = torch.ops.mmvanilla.series_activation


def arguments(shape, n, dtype=torch.float32, device='cpu'):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    weight = torch.randn(shape[1], 1, 2 * n + 1, 2 * n + 1, dtype=dtype, device=device)
    return x, weight, torch.randn(shape[1], dtype=dtype, device=device)


def brute_force(x, weight, bias, pool):
    """Sum shifted, scaled ReLUs of the pooled input, as the paper writes it, in float64."""
    height, width = (side // pool for side in x.shape[2:])
    x = x.double()[..., : height * pool, : width * pool].clamp(min=0)
    x = x.unflatten(3, (width, pool)).unflatten(2, (height, pool)).amax(dim=(3, 5))
    n = weight.shape[-1] // 2
    padded = F.pad(x, (n, n, n, n))
    out = torch.zeros_like(x) + bias.double()[:, None, None]
    for i in range(2 * n + 1):
        for j in range(2 * n + 1):
            factor = weight.double()[:, 0, i, j, None, None]
            out += factor * padded[..., i : i + height, j : j + width]
    return out


def relative_error(out, exact):
    return ((out.double() - exact).norm() / exact.norm()).item()


@needs_triton
def test_the_kernel_in_the_interpreter():
    import triton

    if triton.__version__ < '3.7' and np.lib.NumpyVersion(np.__version__) >= '2.4.0':
        pytest.skip(
            'with numpy 2.4 the interpreter of Triton 3.6 fails on every loop over a tensor'
        )
    folder = Path(__file__).parent
    environment = {**os.environ, 'TRITON_INTERPRET': '1'}
    command = [sys.executable, '-W', 'ignore', folder / 'interpreted_series_activation.py']
    done = subprocess.run(
        command, cwd=folder.parents[1], env=environment, capture_output=True, text=True, check=False
    )
    if 'mask has unsupported dtype' in done.stderr:
        pytest.skip("Triton 3.9's interpreter takes no mask with comparisons of scalars")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('pool', [1, 2])
@pytest.mark.parametrize('shape', [(2, 40, 37, 70), (1, 128, 25, 333), (3, 7, 5, 3)])
def test_the_kernel_on_a_gpu(shape, pool, dtype, monkeypatch):
    from mmvanilla.ops import series_activation_triton

    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]
    for n in (1, 2, 3, 4):
        x, weight, bias = arguments(shape, n, dtype, 'cuda')
        exact = brute_force(x, weight, bias, pool)
        for chunks in (1, 2, 5):
            monkeypatch.setattr(series_activation_triton, 'choose_chunks', lambda *_, c=chunks: c)
            out = torch.full_like(exact, float('nan'), dtype=dtype)
            out = out.contiguous(memory_format=torch.channels_last)
            series_activation_triton.launch(x, weight, bias, pool, out)
            assert relative_error(out, exact) < tolerance, (n, chunks)


@needs_triton
@pytest.mark.parametrize('processors', [1, 7, 46, 132])
def test_chunks_leave_no_processor_idle(processors):
    """Compared with a simulation that gives each block to the first free processor."""
    from mmvanilla.ops.series_activation_triton import MAX_CHUNKS, choose_chunks

    def time(chunks, rows, blocks, n):
        height = -(-rows // chunks)
        tops = range(0, rows, height)
        work = [min(top + height + n, rows) - max(top - n, 0) for top in tops] * blocks
        busy = [0] * processors
        for rows_of_block in sorted(work, reverse=True):
            heapq.heapreplace(busy, busy[0] + rows_of_block)
        return max(*busy, 2 * max(work))  # a single block waits for memory

    for case in itertools.product([1, 3, 25, 200], [1, 8, 200, 256, 5000], [1, 4]):
        rows = case[0]
        best = min(time(chunks, *case) for chunks in range(1, min(MAX_CHUNKS, rows) + 1))
        assert time(choose_chunks(case[1], rows, case[2], processors), *case) <= 1.15 * best


@needs_triton
@pytest.mark.parametrize('failure', ['compiler', 'driver', 'ptxas missing', 'no C compiler'])
def test_where_triton_fails_pytorch_computes_the_same(failure, monkeypatch):
    import triton

    from mmvanilla.ops import series_activation as operator
    from mmvanilla.ops import series_activation_triton

    error = {
        'compiler': triton.TritonError("ptxas fatal: Value 'sm_130a' is not defined"),
        'driver': RuntimeError('Triton Error [CUDA]: device kernel image is invalid'),
        'ptxas missing': FileNotFoundError('ptxas'),
        'no C compiler': subprocess.CalledProcessError(1, 'gcc'),
    }[failure]
    calls = []

    class Fails:
        def __getitem__(self, grid):
            calls.append(grid)
            raise error

    monkeypatch.setattr(series_activation_triton, 'kernel', Fails())
    monkeypatch.setattr(operator, '_without_kernel', set())
    x, weight, bias = arguments((2, 3, 9, 10), 2)
    with pytest.warns(UserWarning, match=r'series activation on cpu .*PyTorch computes') as caught:
        out = operator._launch(x, weight, bias, 2)
    assert len(caught) == 1
    assert str(error) in str(caught[0].message)
    assert relative_error(out, brute_force(x, weight, bias, 2)) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # it is said once
        operator._launch(x, weight, bias, 2)
    assert len(calls) == 1


@needs_triton
def test_mistakes_of_ours_are_not_hidden(monkeypatch):
    """Errors from elsewhere are raised."""
    from mmvanilla.ops import series_activation as operator
    from mmvanilla.ops import series_activation_triton

    def out_of_memory(*_):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(operator, '_without_kernel', set())
    for name, value, error in [
        ('kernel', None, TypeError),
        ('choose_chunks', out_of_memory, torch.cuda.OutOfMemoryError),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(series_activation_triton, name, value)
            with pytest.raises(error):
                operator._launch(*arguments((1, 3, 4, 4), 1), 1)


@pytest.mark.parametrize('call', [series_activation, OPERATOR], ids=['function', 'operator'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('pool', [1, 2])
@pytest.mark.parametrize('n', [1, 2, 3, 4])
def test_values(n, pool, layout, call, device):
    for shape in [(2, 3, 11, 14), (1, 40, 3, 2), (1, 1, 37, 70)]:
        x, weight, bias = arguments(shape, n, device=device)
        exact = brute_force(x, weight, bias, pool)
        for window in (weight, channels_innermost(weight)):
            out = call(x.contiguous(memory_format=layout), window, bias, pool)
            assert out.shape == exact.shape
            assert relative_error(out, exact) < 1e-6


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_16_bit(dtype, device):
    x, weight, bias = arguments((1, 8, 20, 12), 4, dtype, device)
    exact = brute_force(x, weight, bias, 2)
    for parameters in [(weight, bias), (weight.float(), bias.float())]:
        out = series_activation(x, *parameters, 2)
        assert out.dtype == dtype
        assert relative_error(out, exact) < 4e-3


def test_an_empty_batch(device):
    x, weight, bias = arguments((0, 8, 6, 6), 2, device=device)
    for call in (series_activation, OPERATOR):
        assert call(x, weight, bias, 2).shape == (0, 8, 3, 3)


def test_it_is_the_series_activation_of_the_net():
    torch.manual_seed(0)
    module = SeriesActivation(6, 3, {}, deploy=True).requires_grad_(False)
    module.bias.normal_()
    x = torch.randn(2, 6, 9, 10)
    torch.testing.assert_close(series_activation(x, module.weight, module.bias), module(x))
    pooled = module(F.max_pool2d(x, 2))
    torch.testing.assert_close(series_activation(x, module.weight, module.bias, 2), pooled)


@pytest.mark.parametrize('which', [0, 1, 2], ids=['x', 'weight', 'bias'])
def test_gradients(which, device):
    tensors = list(arguments((2, 3, 7, 6), 2, torch.double, device))
    tensors[which].requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: series_activation(*args, 2), tensors)
    single = [tensor.detach().float() for tensor in tensors]
    single[which].requires_grad_()
    assert series_activation(*single, 2).requires_grad


@pytest.mark.parametrize('shape', [(2, 5, 8, 9), (1, 1, 4, 4), (1, 4, 2, 1), (0, 3, 4, 4)])
@pytest.mark.parametrize('pool', [1, 2])
def test_the_operator_keeps_the_rules_of_torch(shape, pool, device):
    if min(shape[2:]) < pool:
        pytest.skip('nothing to pool')
    args = (*arguments(shape, 1, device=device), pool)
    library.opcheck(OPERATOR, args)
    contiguous = (args[0].contiguous(), *args[1:])
    library.opcheck(OPERATOR, contiguous)
    assert OPERATOR(*contiguous).is_contiguous(memory_format=torch.channels_last)


class Net(torch.nn.Module):
    def __init__(self, weight, bias, call):
        super().__init__()
        self.register_buffer('weight', weight)
        self.register_buffer('bias', bias)
        self.call = call

    def forward(self, x):
        return self.call(x * 2, self.weight, self.bias, 2) + 1


@pytest.mark.parametrize('call', [series_activation, OPERATOR], ids=['function', 'operator'])
def test_compile(call, device):
    x, weight, bias = arguments((1, 4, 12, 10), 2, device=device)
    net = Net(weight, bias, call)
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend='aot_eager')
    for size in [(12, 10), (9, 16), (31, 5)]:
        x = torch.randn(1, 4, *size, device=device)
        torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.skipif(
    torch.__version__ < (2, 9), reason='torch.export before 2.9 takes sizes that a pool divides'
)
@pytest.mark.parametrize('call', [series_activation, OPERATOR], ids=['function', 'operator'])
def test_export(call, device):
    x, weight, bias = arguments((2, 4, 12, 10), 2, device=device)
    net = Net(weight, bias, call)
    sides = {2: torch.export.Dim('height', min=4), 3: torch.export.Dim('width', min=4)}
    program = torch.export.export(net, (x,), dynamic_shapes=(sides,)).module()
    for size in [(12, 10), (9, 16)]:
        x = torch.randn(2, 4, *size, device=device)
        torch.testing.assert_close(program(x), net(x))


def test_autocast_is_that_of_a_convolution(device):
    x, weight, bias = arguments((1, 4, 12, 10), 2, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        out = series_activation(x, weight, bias)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, brute_force(x, weight, bias, 1)) < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda_graph():
    x, weight, bias = arguments((1, 64, 30, 22), 4, torch.float16, 'cuda')
    series_activation(x, weight, bias, 2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = series_activation(x, weight, bias, 2)
    x.copy_(torch.randn_like(x))
    out.fill_(float('nan'))
    graph.replay()
    assert relative_error(out, brute_force(x, weight, bias, 2)) < 1e-3


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(pool=3), 'pool of series_activation is 3, expected 1 or 2'),
        (dict(x=torch.zeros(4, 5, 5)), r'shape of the input is .*4, 5, 5'),
        (dict(x=torch.zeros(1, 4, 5, 5, dtype=torch.int32)), 'torch.int32, expected a floating'),
        (dict(x=torch.zeros(1, 4, 1, 5), pool=2), 'size of the input is .*1, 5.*the pool'),
        (dict(weight=torch.zeros(3, 1, 3, 3)), 'shape of the weight is .*3, 1, 3, 3'),
        (dict(weight=torch.zeros(4, 1, 3, 5)), 'k = 3, 5, 7 or 9'),
        (dict(weight=torch.zeros(4, 1, 11, 11)), 'k = 3, 5, 7 or 9'),
        (dict(weight=torch.zeros(())), 'k = 3, 5, 7 or 9'),
        (dict(bias=torch.zeros(3)), r'shape of the bias is .*3.* expected \(C,\)'),
        (dict(bias=torch.zeros(4, device='meta')), 'meta.*expected one device'),
    ],
)
def test_mistakes_get_one_sentence(change, message):
    good = dict(x=torch.zeros(1, 4, 5, 5), weight=torch.zeros(4, 1, 3, 3), bias=torch.zeros(4))
    with pytest.raises(ValueError, match=message):
        series_activation(**{**good, **change})
