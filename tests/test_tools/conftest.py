"""Tools in processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
