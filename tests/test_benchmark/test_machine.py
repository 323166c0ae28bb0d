"""Disturbances of a measurement are detected."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import mmengine
import pytest
import torch

from mmvanilla.benchmark import machine
from mmvanilla.benchmark.machine import Watch

QUIET = dict(wall=0.0, total=0.0, busy=0.0, stolen=0.0, own=0.0, throttled=0)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (dict(), None),
        (dict(busy=15.0), 'other processes kept 0.50 cores busy'),
        (dict(busy=10.2), None),
        (dict(stolen=1.0), '5% of its time went to other machines'),
        (dict(throttled=3), 'was throttled'),
    ],
)
def test_disturbances(change, sentence, monkeypatch):
    after = dict(wall=10.0, total=20.0, busy=10.0, stolen=0.0, own=10.0, throttled=0) | change
    readings = iter([QUIET, after])
    monkeypatch.setattr(Watch, '_read', lambda self: next(readings))
    found = Watch().disturbances()
    assert len(found) == (sentence is not None)
    assert sentence is None or sentence in found[0]


@pytest.mark.skipif(not os.path.exists('/proc/stat'), reason='counters of Linux')
def test_another_process_is_detected():
    watch = Watch()
    busy = 'import time\nwhile time.process_time() < 1.5: pass'
    other = subprocess.Popen([sys.executable, '-c', busy])
    ours = Watch(pids=[other.pid])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # still a zombie
    found = watch._read()['own'] - watch.before['own']
    assert found < 0.5
    assert ours._read()['own'] - ours.before['own'] > found + 0.5
    other.wait()
    # After the wait the child's time counts as this process's: subtract it.
    children = os.times()
    watch.before['own'] += children.children_user + children.children_system
    assert any('other processes' in text for text in watch.disturbances())


def test_counters_only_grow():
    for before, after in pairwise([Watch()._read() for _ in range(3)]):
        assert all(before[name] <= after[name] for name in before)


def test_gpu_slowdown(tmp_path, monkeypatch):
    program = tmp_path / 'nvidia-smi'
    program.write_text('#!/bin/sh\necho "Not Active, Active, Not Active"\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    assert machine.gpu_slowdown() == 'sw thermal slowdown'
    program.write_text('#!/bin/sh\necho "Not Active, Not Active, Not Active"\n')
    assert machine.gpu_slowdown() is None
    program.write_text('#!/bin/sh\nexit 9\n')
    assert machine.gpu_slowdown() is None


def test_description():
    facts = machine.describe('cpu')
    assert facts['torch'] == torch.__version__
    assert facts['threads'] == str(torch.get_num_threads())
    assert re.match(r'\d+\.\d+', facts['python'])
    assert facts['processor']
    assert facts.get('mmengine', facts.get('onedl-mmengine')) == mmengine.__version__
