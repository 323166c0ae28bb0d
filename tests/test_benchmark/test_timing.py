"""Calls take turns, and what the times tell."""

import numpy as np
import pytest

from mmvanilla.benchmark.timing import Times, interleaved


def run(names='abc', repeats=3, warmup=1, **options):
    """Run calls that only note their turn, on a clock that counts from 1."""
    order = []
    ticks = iter(range(1, 1000))

    def clock(call):
        call()
        return float(next(ticks))

    def prepare(name):
        return lambda turn: lambda: order.append((name, turn))

    prepares = {name: prepare(name) for name in names}
    return order, interleaved(prepares, repeats, warmup, clock, **options)


def test_every_round_begins_with_another():
    order, (times, complete) = run()
    turns = ['abc', 'bca', 'cab', 'abc']
    assert order == [(name, t - 1) for t, names in enumerate(turns) for name in names]
    assert complete
    # The first round, ticks 1 to 3, does not count.
    assert {name: value.values for name, value in times.items()} == dict(
        a=[6.0, 8.0, 10.0], b=[4.0, 9.0, 11.0], c=[5.0, 7.0, 12.0]
    )


def test_ctrl_c_keeps_what_was_measured():
    def prepare(turn):
        if turn == 2:
            raise KeyboardInterrupt
        return lambda: None

    times, complete = interleaved({'a': lambda turn: lambda: None, 'b': prepare}, 5, 0)
    assert not complete
    assert 2 <= len(times['a'].values) <= 3
    assert len(times['b'].values) == 2


def test_a_call_that_fails_leaves_the_others_alone():
    failures = []

    def prepare(turn):
        if turn == 1:
            raise RuntimeError('no more')
        return lambda: None

    prepares = {'a': lambda turn: lambda: None, 'b': prepare, 'c': lambda turn: lambda: None}
    times, complete = interleaved(
        prepares, 4, failed=lambda name, error: failures.append((name, str(error)))
    )
    assert complete
    assert failures == [('b', 'no more')]
    assert {name: len(value.values) for name, value in times.items()} == dict(a=4, c=4)
    with pytest.raises(RuntimeError, match='no more'):
        interleaved(prepares, 4)


def test_progress_advances_with_every_call():
    steps = []
    run(repeats=4, warmup=2, advance=lambda: steps.append(1))
    assert len(steps) == 3 * (4 + 2)


def test_statistics():
    values = np.random.default_rng(0).uniform(1, 9, 37)
    times = Times(list(values))
    assert times.median == np.median(values)
    assert times.p10 == np.quantile(values, 0.1)
    assert times.p90 == np.quantile(values, 0.9)


def test_ratio_is_taken_within_rounds():
    # The machine slows down tenfold half way; the second call always takes twice the first.
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
        ([10.0, 30.0] * 6, True),  # wide, but the same all along
        ([10.0], False),  # tells nothing
    ],
)
def test_steady(values, steady):
    assert Times(values).steady == steady
