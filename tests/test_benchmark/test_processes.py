"""Calls take turns in processes; one that fails does not affect the others."""

import io
import os
from functools import partial

import pytest
import torch
from rich.console import Console

from mmvanilla import UserError
from mmvanilla.benchmark import Conditions, in_turn, processes, take_turns


def make(kind, log):
    """Return calls that log their turn and process, and facts of the process."""

    def prepare(turn):
        if kind == 'fails' and turn == 1:
            raise ValueError('no more')
        if kind == 'dies' and turn == 1:
            os.kill(os.getpid(), 9)
        return partial(write, f'{kind} {turn} {os.getpid()}')

    def write(line):
        with open(log, 'a') as file:
            file.write(line + '\n')

    return prepare, dict(threads=torch.get_num_threads(), grad=torch.is_grad_enabled())


def test_processes_take_turns(tmp_path):
    log = tmp_path / 'log'
    makes = {kind: partial(make, kind, log) for kind in ('steady', 'fails', 'dies')}
    makes['local'] = lambda: None  # cannot be pickled
    threads, warnings = torch.get_num_threads(), os.environ.get('PYTHONWARNINGS')
    shown = io.StringIO()
    conditions = Conditions(context=torch.no_grad, threads=3)
    result = take_turns(makes, 3, 1, conditions, Console(file=shown, force_terminal=True))
    assert result.complete
    calls = [line.split() for line in log.read_text().splitlines()]
    order = 'steady -1, fails -1, dies -1, fails 0, dies 0, steady 0, steady 1, steady 2'
    assert [f'{kind} {turn}' for kind, turn, _ in calls] == order.split(', ')
    pids = {(kind, pid) for kind, _, pid in calls}
    assert len(pids) == len({pid for _, pid in pids} - {str(os.getpid())}) == 3
    assert [row.name for row in result.rows] == list(makes)
    steady, fails, dies, local = result.rows
    assert len(steady.times.values) == 3
    assert steady.metadata == dict(threads=3, grad=False)
    assert steady.reason is None
    assert fails.reason == 'ValueError: no more'
    assert not fails.missing
    assert (fails.times.values, fails.metadata) == ([], {})
    assert 'killed by signal 9' in dies.reason
    assert 'local object' in local.reason
    assert 'measuring' in shown.getvalue()
    # This process is unchanged.
    assert (torch.get_num_threads(), os.environ.get('PYTHONWARNINGS')) == (threads, warnings)


def in_order(names, repeat, warmup, **calls):
    """Run calls in this process that log their turn; return the order and the times."""
    order = []

    def prepare(name):
        return lambda turn: partial(calls.get(name, order.append), (name, turn))

    return order, in_turn({name: prepare(name) for name in names}, repeat, warmup)


def test_every_round_starts_with_another_call():
    order, times = in_order('abc', 3, 1)
    turns = ['abc', 'bca', 'cab', 'abc']
    assert order == [(name, t - 1) for t, names in enumerate(turns) for name in names]
    assert {name: len(found.values) for name, found in times.items()} == dict(a=3, b=3, c=3)


def test_errors_in_this_process_are_raised():
    with pytest.raises(ZeroDivisionError, match='division by zero'):
        in_order('ab', 2, 0, b=lambda turn: 1 / turn[1])
    with pytest.raises(SystemExit, match='too few'):
        in_order('ab', 2, 0, a=lambda turn: os.sys.exit('too few'))


def test_calls_in_this_process_keep_its_modes():
    modes = []
    with torch.no_grad():
        in_turn({'a': lambda turn: lambda: modes.append(torch.is_grad_enabled())}, 2, 0)
    assert modes == [False, False]


@pytest.mark.parametrize(
    ('error', 'missing'),
    [(ImportError('No module'), True), (UserError('no GPU'), True), (ValueError('no'), False)],
)
def test_errors_while_building(error, missing, forked):
    def fail():
        raise error

    makes = {'fails': fail, 'runs': lambda: (lambda turn: os.getpid, dict(size=1))}
    fails, runs = take_turns(makes, 1).rows
    assert fails.reason == processes.explain(error)
    assert fails.missing == missing
    assert (fails.metadata, fails.times.values) == ({}, [])
    assert (runs.metadata, len(runs.times.values)) == (dict(size=1), 1)


def test_ctrl_c_keeps_the_rounds_so_far(monkeypatch, forked):
    ask = processes.Worker.ask

    def stop(self, request):
        if request == 2:  # the third round
            raise KeyboardInterrupt
        return ask(self, request)

    monkeypatch.setattr(processes.Worker, 'ask', stop)
    result = take_turns({name: lambda: (lambda turn: os.getpid, {}) for name in 'ab'}, 5, 0)
    assert not result.complete
    assert [len(row.times.values) for row in result.rows] == [2, 2]


@pytest.mark.parametrize(
    ('times', 'min_ms', 'median'),
    [([50, 100, 250, 999], 300, 100), ([999], 300, 999), ([50], 0, 50)],
)
def test_a_turn_lasts_min_ms_and_counts_the_median(times, min_ms, median, monkeypatch):
    ticks = iter(times)
    monkeypatch.setattr(processes, 'time_call', lambda call, device: next(ticks))
    assert processes.time_turn(None, Conditions(min_ms=min_ms)) == median


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (ModuleNotFoundError("No module named 'a.b'", name='a.b'), 'needs the package a'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory'), 'too little memory'),
        (MemoryError(), 'too little memory'),
        (RuntimeError('sizes must match\nwhere?'), 'RuntimeError: sizes must match where?'),
        (ImportError('No module\nof that name'), 'ImportError: No module of that name'),
        (UserError('shape is 8, expected 9'), 'shape is 8, expected 9'),
    ],
)
def test_reasons(error, reason):
    assert processes.explain(error) == reason
