"""Tools in processes of their own."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A new interpreter imports for five seconds; the test process may not fork once autograd has run.
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(['tool_process'])


class Process:
    """A tool in a process and process group of its own."""

    def __init__(self, tool, *arguments, **environment):
        from tool_process import run_tool_in_child

        self.printed = ''
        reader, writer = SERVER.Pipe(duplex=False)
        arguments = (writer, tool, arguments, environment)
        self.process = SERVER.Process(target=run_tool_in_child, args=arguments)
        self.process.start()
        writer.close()
        self.pid, self.output = (
            self.process.pid,
            os.fdopen(os.dup(reader.fileno()), errors='replace'),
        )
        reader.close()

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


@pytest.fixture
def fork_server(monkeypatch):
    """Return the context of processes that have imported mmdet and nothing from the test."""
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}:{ROOT / "tests"}')  # where the server starts
    return SERVER


@pytest.fixture
def start_tool(fork_server):
    """Start tools in processes of their own, and kill those that outlive the test."""
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
