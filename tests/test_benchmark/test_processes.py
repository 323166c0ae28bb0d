"""Calls take turns in processes, and what fails leaves the others alone."""

import io
import os
import time
from functools import partial

import pytest
import torch
from rich.console import Console

from mmvanilla import UserError
from mmvanilla.benchmark import Conditions, in_turn, processes, take_turns


def make(kind, log):
    """Return calls that note their turn in a file and tell of their process."""

    def prepare(turn):
        if kind == 'fails' and turn == 1:
            raise ValueError('no more')
        if kind == 'dies' and turn == 1:
            os.kill(os.getpid(), 9)
        return partial(note, f'{kind} {turn}')

    def note(text):
        with open(log, 'a') as file:
            file.write(text + '\n')
        time.sleep(0.01)

    return prepare, (os.getpid(), torch.get_num_threads(), torch.is_grad_enabled())


def test_processes_take_turns(tmp_path):
    log = tmp_path / 'log'
    makes = {kind: partial(make, kind, log) for kind in ('steady', 'fails', 'dies')}
    makes['local'] = lambda: None  # cannot be pickled
    threads, warnings = torch.get_num_threads(), os.environ.get('PYTHONWARNINGS')
    shown = io.StringIO()
    conditions = Conditions(within=torch.no_grad, threads=3)
    run = take_turns(makes, 3, 1, conditions, Console(file=shown, force_terminal=True))
    assert run.complete
    order = 'steady -1, fails -1, dies -1, fails 0, dies 0, steady 0, steady 1, steady 2'
    assert log.read_text().splitlines() == order.split(', ')
    steady, fails, dies, local = run.results.values()
    assert len(steady.times.values) == 3
    assert all(10 <= ms < 100 for ms in steady.times.values)
    pids = {found.kept[0] for found in (steady, fails, dies)} | {os.getpid()}
    assert len(pids) == 4
    assert steady.kept[1:] == (3, False)
    assert steady.failed is None
    assert fails.failed.reason == 'ValueError: no more'
    assert not fails.failed.lacking
    assert 'killed by signal 9, perhaps for want of memory' in dies.failed.reason
    assert 'local object' in local.failed.reason
    assert 'measuring' in shown.getvalue()
    # What the processes were to inherit is as it was.
    assert (torch.get_num_threads(), os.environ.get('PYTHONWARNINGS')) == (threads, warnings)


def in_order(names, repeat, warmup, **calls):
    """Run calls in this process that only note their turn; return the order and the times."""
    order = []

    def prepare(name):
        return lambda turn: partial(calls.get(name, order.append), (name, turn))

    return order, in_turn({name: prepare(name) for name in names}, repeat, warmup)


def test_every_round_begins_with_another():
    order, times = in_order('abc', 3, 1)
    turns = ['abc', 'bca', 'cab', 'abc']
    assert order == [(name, t - 1) for t, names in enumerate(turns) for name in names]
    assert {name: len(found.values) for name, found in times.items()} == dict(a=3, b=3, c=3)


def test_calls_that_share_a_process_fail_aloud():
    with pytest.raises(ZeroDivisionError, match='division by zero'):
        in_order('ab', 2, 0, b=lambda turn: 1 / turn[1])
    with pytest.raises(SystemExit, match='too few'):
        in_order('ab', 2, 0, a=lambda turn: os.sys.exit('too few'))


def test_calls_that_share_a_process_keep_its_modes():
    modes = []
    with torch.no_grad():
        in_turn({'a': lambda turn: lambda: modes.append(torch.is_grad_enabled())}, 2, 0)
    assert modes == [False, False]


@pytest.mark.parametrize(
    ('error', 'lacking'),
    [(ImportError('No module'), True), (UserError('no GPU'), True), (ValueError('no'), False)],
)
def test_what_cannot_be_made(error, lacking, in_threads):
    def fail():
        raise error

    makes = {'lost': fail, 'there': lambda: (lambda turn: time.time, 'kept')}
    lost, there = take_turns(makes, 1).results.values()
    assert lost.failed.reason == processes.explain(error)
    assert lost.failed.lacking == lacking
    assert (lost.kept, lost.times.values) == (None, [])
    assert (there.kept, len(there.times.values)) == ('kept', 1)


def test_ctrl_c_keeps_what_was_measured(monkeypatch, in_threads):
    ask = processes.Worker.ask

    def stop(self, what):
        if what == 2:
            raise KeyboardInterrupt
        return ask(self, what)

    monkeypatch.setattr(processes.Worker, 'ask', stop)
    makes = {name: lambda: (lambda turn: time.time, None) for name in 'ab'}
    run = take_turns(makes, 5, 0)
    assert not run.complete
    assert [len(found.times.values) for found in run.results.values()] == [2, 2]


def test_a_turn_lasts_its_time_and_counts_the_median():
    times = iter([50, 100, 250, 999])
    assert processes.time_turn(None, lambda call: next(times), 300) == 100
    assert processes.time_turn(None, lambda call: 999, 300) == 999
    times = iter([50, 999])
    assert processes.time_turn(None, lambda call: next(times), 0) == 50


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (ModuleNotFoundError("No module named 'a.b'", name='a.b'), 'needs the package a'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory'), 'too little memory'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 'too little memory'),
        (RuntimeError('sizes must match\nwhere?'), 'RuntimeError: sizes must match where?'),
        (ImportError('No module\nof that name'), 'ImportError: No module of that name'),
        (UserError('shape is 8, expected 9'), 'shape is 8, expected 9'),
    ],
)
def test_reasons(error, reason):
    assert processes.explain(error) == reason
