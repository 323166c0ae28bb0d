"""The commands of docs/multi_node.md, with two machines' processes on one."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmvanilla.datasets import make_shapes

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r'^```\w+\n(.*?)^```$', (ROOT / 'docs/multi_node.md').read_text(), re.M | re.S)
RUN = 'CONFIG 8 --work-dir work_dirs/run'
CONFIG = """
_base_ = '{base}'
train_cfg = dict(max_epochs=3)
"""
SRUN = """#!/usr/bin/env bash
trap 'kill -TERM $(jobs -p)' TERM
for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" & done
wait
wait
"""
SCONTROL = """#!/bin/sh
echo 127.0.0.1
echo node1
"""


def block(start):
    """Return the page's block of commands that starts so."""
    (found,) = (text for text in BLOCKS if text.startswith(start))
    return found


@pytest.fixture
def command(tmp_path):
    """Put tiny data, one process and this machine into a command of the page."""
    data = make_shapes(tmp_path / 'shapes', train=11, val=5, size=64) / 'coco'
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(base=ROOT / 'tests/data/tiny_shapes.py'))
    tiny = f'{config} 1 --data-root {data} --work-dir {tmp_path / "work"}'

    def fit(text):
        assert RUN in text
        return text.replace(RUN, tiny).replace('MASTER_ADDR=node0', 'MASTER_ADDR=127.0.0.1')

    return fit


@pytest.fixture
def start(tmp_path):
    """Start a command in a session of its own, with its output in a file."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    environment = dict(
        os.environ,
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        PYTHON=sys.executable,
        PORT=port,
        PYTHONPATH=str(ROOT),
    )
    runs = []

    def run(text, name, **variables):
        with open(tmp_path / name, 'a') as log:
            process = subprocess.Popen(
                ['bash', '-c', text],
                cwd=ROOT,
                env=environment | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        runs.append(process)
        return process

    yield run
    for process in runs:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(file, text, process):
    """Wait until a running process has written a text."""
    while text not in file.read_text():
        assert process.poll() is None, file.read_text()[-3000:]
        time.sleep(0.2)


def started(line):
    """Return what a line with tools/dist_train.sh starts."""
    done = subprocess.run(
        ['bash', '-c', line],
        cwd=ROOT,
        env=dict(os.environ, PYTHON='echo'),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_script_is_short_for_torchrun():
    first, second = (
        started(line)
        for line in block('NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 tools/dist_train').splitlines()
    )
    program, *torchrun = shlex.split(block('torchrun'))
    assert program == 'torchrun'
    script = ['-m', 'torch.distributed.run', *torchrun]
    assert sorted(set(first) - {'-u'}) == sorted({*script, '--max-restarts=0'})
    assert [b for a, b in zip(first, second, strict=True) if a != b] == ['--node-rank=1']


def test_a_test_over_two_machines():
    first, second = (
        started(line)
        for line in block('NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 tools/dist_test').splitlines()
    )
    assert {'--nnodes=2', '--node-rank=0', '--nproc-per-node=8', '--master-addr=node0'} <= set(
        first
    )
    assert first[-4:] == ['CONFIG', 'CHECKPOINT', '--launcher', 'pytorch']
    assert [b for a, b in zip(first, second, strict=True) if a != b] == ['--node-rank=1']


@pytest.mark.slow
def test_a_worker_killed_on_the_second_machine(command, start, tmp_path):
    lines = block('NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 MAX_RESTARTS').splitlines()
    first, second = (start(f'exec env {command(line)}', f'log{i}') for i, line in enumerate(lines))
    log = tmp_path / 'log0'
    wait_for(log, 'Epoch(train) [2][1/3]', first)
    children = ['ps', '-o', 'pid=', '--ppid', str(second.pid)]
    worker = subprocess.run(children, capture_output=True, text=True, check=True).stdout.split()[0]
    os.kill(int(worker), signal.SIGKILL)
    codes = [run.wait(400) for run in (first, second)]
    printed = log.read_text()
    assert codes == [0, 0], printed[-3000:]
    assert re.search(r'resumed epoch: [12]', printed)
    assert printed.count('Epoch(train) [1][1/3]') == 1
    assert (tmp_path / 'work/last_checkpoint').read_text().endswith('iter_9.pth')


@pytest.mark.slow
def test_a_batch_script_ended_by_slurm_and_submitted_again(command, start, tmp_path):
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = command(block('#!/usr/bin/env bash'))
    job = dict(SLURM_NNODES='2', SLURM_JOB_NODELIST='node[0-1]')
    log = tmp_path / 'log'
    run = start(script, 'log', **job)
    wait_for(log, 'Epoch(train) [2][1/3]', run)
    (srun,) = subprocess.run(
        ['pgrep', '--session', str(run.pid), '--full', str(tmp_path / 'srun')],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    os.kill(int(srun), signal.SIGTERM)
    run.wait(120)
    assert (tmp_path / 'work/interrupted.pth').exists(), log.read_text()[-3000:]
    assert start(script, 'log', **job).wait(400) == 0, log.read_text()[-3000:]
    printed = log.read_text()
    assert printed.count('Epoch(train) [1][1/3]') == 1
    assert (tmp_path / 'work/last_checkpoint').read_text().endswith('iter_9.pth')
