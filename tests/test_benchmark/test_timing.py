"""Statistics of times."""

import numpy as np
import pytest

from mmvanilla.benchmark.timing import Times


def test_statistics():
    values = np.random.default_rng(0).uniform(1, 9, 37)
    times = Times(list(values))
    assert times.median == np.median(values)
    assert times.p10 == np.quantile(values, 0.1)
    assert times.p90 == np.quantile(values, 0.9)
    assert times.range == (values.min(), values.max())


def test_ratio_is_taken_within_rounds():
    # The machine becomes ten times slower; the second call always takes twice as long.
    first, second = Times([1.0, 1.0, 10.0, 10.0]), Times([2.0, 2.0, 20.0, 20.0])
    ratio = second.ratio(first)
    assert (ratio.p10, ratio.median, ratio.p90) == (2, 2, 2)


@pytest.mark.parametrize(
    ('values', 'steady'),
    [
        ([10.0] * 10, True),
        ([10.0] * 5 + [10.4] * 5, True),
        ([10.0] * 5 + [10.8] * 5, False),
        ([10.8] * 5 + [10.0] * 5, False),
        ([10.0, 30.0] * 6, True),  # wide in both halves
        ([10.0], False),  # no second half
    ],
)
def test_steady(values, steady):
    assert Times(values).steady == steady
