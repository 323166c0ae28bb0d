"""Tools in processes of their own."""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.utils import import_modules_from_strings
from mmengine.visualization import Visualizer

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context('fork')  # a new interpreter imports for five seconds
MODULES = 'datasets', 'evaluation', 'models', 'visualization'


class Process:
    """A tool in a forked process, in a process group of its own."""

    def __init__(self, tool, *arguments, **environment):
        self.printed = ''
        reader, writer = os.pipe()
        self.process = FORK.Process(
            target=run_in_child, args=(writer, tool, arguments, environment)
        )
        self.process.start()
        os.close(writer)
        self.pid, self.output = self.process.pid, os.fdopen(reader, errors='replace')

    def read_until(self, text):
        """Wait for a line with a text."""
        for line in self.output:
            self.printed += line
            if text in line:
                return
        raise AssertionError(f'{text!r} is not printed:\n{self.printed[-3000:]}')

    def finish(self):
        """Wait for the end; return the exit code as a shell does, and the output."""
        with self.output:
            self.printed += self.output.read()
        self.process.join()
        code = self.process.exitcode
        return code if code >= 0 else 128 - code, self.printed


def run_in_child(writer, tool, arguments, environment):
    """Run a tool in a forked process, as if nothing had run in it before."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(writer, stream)
    sys.stdout = sys.stderr = os.fdopen(1, 'w', buffering=1)
    os.environ.update(environment)
    os.chdir(ROOT)
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    for named in (MMLogger, MessageHub, Visualizer, *Visualizer.__subclasses__()):
        named._instance_dict.clear()
    sys.argv = [tool, *map(str, arguments)]
    runpy.run_path(f'tools/{tool}', run_name='__main__')


@pytest.fixture
def start_tool():
    """Start tools in processes of their own, and kill those that outlive the test."""
    if torch.cuda.is_initialized():
        pytest.skip('CUDA does not survive a fork')
    import_modules_from_strings([f'mmdet.{name}' for name in MODULES])
    started = []

    def start(tool, *arguments, **environment):
        started.append(Process(tool, *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        if each.process.is_alive():
            os.killpg(each.pid, signal.SIGKILL)
            each.process.join()


@pytest.fixture
def run_forked(start_tool):
    """Run a tool, which must succeed, in a process of its own; return its output."""

    def run(tool, *arguments):
        code, printed = start_tool(tool, *arguments).finish()
        assert code == 0, printed[-3000:]
        return printed

    return run
