"""Tests that bound memory run in a process without memory freed by other tests."""

import os
import subprocess
import sys

import pytest

ALONE = 'MMVANILLA_TEST_ALONE'


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run tests marked ``alone`` in a new process."""
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
