"""Runs the kernel of the series activation in Triton's interpreter; an error fails the test.

Triton reads TRITON_INTERPRET on import, so test_series_activation.py runs this file in another
process.
"""

import math
from unittest import mock

import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mmvanilla.ops import series_activation_triton as implementation
from mmvanilla.ops.series_activation import channels_innermost
from mmvanilla.ops.series_activation_triton import launch

# Relative rounding error of the output: half a unit in the last place, a whole one in bfloat16,
# where the interpreter truncates.
PRECISION = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-7}


def walled(shape, dtype, fill):
    """Return an all-nan channels-last tensor between walls of memory, and the memory."""
    wall = 4096
    memory = torch.full([2 * wall + math.prod(shape)], fill, dtype=dtype)
    batch, channels, height, width = shape
    image = memory[wall:-wall].view(batch, height, width, channels).permute(0, 3, 1, 2)
    return image, memory


def check(images, channels, height, width, n, pool, dtype, chunks, innermost, seed=0):
    generator = torch.Generator().manual_seed(seed)
    random = dict(generator=generator, dtype=torch.double)
    x, _ = walled((images, channels, height, width), dtype, math.nan)
    x.copy_(torch.randn(x.shape, **random))
    weight = torch.randn(channels, 1, 2 * n + 1, 2 * n + 1, **random).to(dtype)
    bias = torch.randn(channels, **random).to(dtype)
    out, memory = walled((images, channels, height // pool, width // pool), dtype, 12345.0)
    out.fill_(math.nan)

    with mock.patch.object(implementation, 'choose_chunks', return_value=chunks):
        launch(x, channels_innermost(weight) if innermost else weight, bias, pool, out)

    exact = F.max_pool2d(x.double(), pool).relu()
    exact = F.conv2d(exact, weight.double(), bias.double(), padding=n, groups=channels)
    # Rounding errors are proportional to the sum of the absolute terms.
    size = F.max_pool2d(x.double(), pool).relu()
    size = F.conv2d(size, weight.double().abs(), bias.double().abs(), padding=n, groups=channels)
    assert out.isfinite().all(), 'an element was not written, or read beyond the image'
    assert ((out.double() - exact).abs() <= exact.abs() * PRECISION[dtype] + size * 1e-6).all()
    walls = torch.cat([memory[:4096], memory[-4096:]])
    assert walls.eq(12345).all(), 'wrote beyond the output'


# No shrinking of failed cases: it takes the interpreter minutes.
@settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    images=st.integers(1, 2),
    channels=st.sampled_from([1, 5, 32, 40]),
    height=st.integers(2, 13),
    width=st.integers(2, 23),
    n=st.integers(1, 3),
    pool=st.sampled_from([1, 2]),
    dtype=st.sampled_from(list(PRECISION)),
    chunks=st.integers(1, 4),
    innermost=st.booleans(),
    seed=st.integers(0, 99),
)
def check_random(**case):
    check(**case)


def check_every_window_and_pool():
    for n in range(1, 5):
        for pool in (1, 2):
            check(2, 3, 7, 9, n, pool, torch.float32, 2, False)


def check_the_widest_window():
    check(1, 34, 11, 9, 4, 1, torch.float32, 4, True)
    check(2, 8, 7, 43, 4, 2, torch.float16, 1, False)
    check(1, 3, 3, 2, 4, 1, torch.bfloat16, 2, True)
    check(1, 3, 4, 26, 4, 1, torch.float16, 3, True)  # more chunks than rows need


def check_nan_and_infinity():
    """They spread as through PyTorch's operators."""
    x = torch.randn(1, 2, 8, 8).to(memory_format=torch.channels_last)
    x[0, 0, 2, 2], x[0, 1, 5, 5], x[0, 1, 1, 1] = math.nan, math.inf, -math.inf
    weight, bias = torch.rand(2, 1, 3, 3), torch.rand(2)
    for pool in (1, 2):
        exact = F.conv2d(F.max_pool2d(x, pool).relu(), weight, bias, padding=1, groups=2)
        out = torch.empty_like(exact, memory_format=torch.channels_last)
        launch(x, weight, bias, pool, out)
        torch.testing.assert_close(out, exact, equal_nan=True)


if __name__ == '__main__':
    check_random()
    check_every_window_and_pool()
    check_the_widest_window()
    check_nan_and_infinity()
