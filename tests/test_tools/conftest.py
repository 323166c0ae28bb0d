"""Tools, run within the test's own process, and small models for them."""

import io
import logging
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_tool(capsys, monkeypatch):
    """Run a tool and return its exit code, what it printed or logged, and what is on stderr."""

    def run(tool, *arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(logging, 'raiseExceptions', False)  # mmengine's logger outlives a test
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        capsys.readouterr()
        # The logger may be older than this test and write to where that of its time wrote.
        log = logging.StreamHandler(io.StringIO())
        MMLogger.get_current_instance().addHandler(log)
        code = 0
        try:
            runpy.run_path(f'tools/{tool}', run_name='__main__')
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            MMLogger.get_current_instance().removeHandler(log)
        out, error = capsys.readouterr()
        return code, out + log.stream.getvalue(), error

    return run


@pytest.fixture
def files(build, small_config, tmp_path):
    """Write the config and the checkpoint of a small model; return the model and both paths."""

    def write(kind, deploy=False, act_learn=1.0):
        cfg = small_config(kind)
        cfg.model.backbone.deploy = deploy
        cfg.dump(tmp_path / 'config.py')
        model = build(kind)
        model.backbone.act_learn = act_learn
        state = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save(dict(state_dict=state, meta={}), tmp_path / 'trained.pth')
        return model, tmp_path / 'config.py', tmp_path / 'trained.pth'

    return write


class Process:
    """A tool in a process and group of its own."""

    def __init__(self, tool, *arguments, **environment):
        self.printed = ''
        self.process = subprocess.Popen(
            [sys.executable, f'tools/{tool}', *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,
        )
        self.pid, self.output = self.process.pid, self.process.stdout

    def read_until(self, text):
        """Wait for a line with a text."""
        for line in self.output:
            self.printed += line
            if text in line:
                return
        raise AssertionError(f'{text!r} is not printed:\n{self.printed[-3000:]}')

    def finish(self):
        """Wait for the end and return the exit code, that of a shell, and what was printed."""
        self.printed += self.output.read()
        code = self.process.wait()
        return code if code >= 0 else 128 - code, self.printed


@pytest.fixture
def start_tool():
    """Start tools in processes of their own; those that still run at the end are killed."""
    processes = []

    def start(tool, *arguments, **environment):
        processes.append(Process(tool, *arguments, **environment))
        return processes[-1]

    yield start
    for process in processes:
        if process.process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.process.wait()
