"""Tests that bound memory run alone, where no other test has left memory that is free."""

import multiprocessing.dummy
import os
import subprocess
import sys

import pytest
from mmengine.logging import MMLogger

from mmvanilla.benchmark import processes

ALONE = 'MMVANILLA_TEST_ALONE'


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that is marked ``alone`` in a fresh process."""
    if pyfuncitem.get_closest_marker('alone') is None or ALONE in os.environ:
        return None
    done = subprocess.run(
        [sys.executable, '-W', 'ignore::UserWarning', '-m', 'pytest', '-q', pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, ALONE: '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '1 passed' in done.stdout
    return True


@pytest.fixture
def in_threads(monkeypatch):
    """Let threads of this process do what processes do: tests can then reach into them."""
    monkeypatch.setattr(processes, 'SPAWN', multiprocessing.dummy)
    monkeypatch.setattr(processes, 'PAUSE', 0)
    logger = MMLogger.get_current_instance()
    level = logger.level
    yield
    logger.setLevel(level)  # a process that measures lowers its own
