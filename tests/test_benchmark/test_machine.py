"""The description of a machine, and of what else used it."""

import os
import re
import subprocess
import sys

import mmengine
import pytest
import torch

from mmvanilla.benchmark import machine


def test_description():
    facts = machine.describe('cpu')
    assert facts['torch'] == torch.__version__
    assert facts['threads'] == str(torch.get_num_threads())
    assert re.match(r'\d+\.\d+', facts['python'])
    assert facts['processor']
    assert facts.get('mmengine', facts.get('onedl-mmengine')) == mmengine.__version__


@pytest.mark.parametrize(
    ('busy', 'stolen', 'word'),
    [(10.0, 0.0, ''), (10.2, 0.2, ''), (15.0, 0.0, '0.50 cores'), (10.0, 1.0, 'other machines')],
)
def test_disturbances(busy, stolen, word, monkeypatch):
    """10 s, in which the measurement used one core."""
    before = machine.CpuSeconds(0.0, 0.0, 0.0, 0.0)
    after = machine.CpuSeconds(10.0, 10.0, busy, stolen)
    monkeypatch.setattr(machine, 'cpu_seconds', lambda: after)
    found = machine.disturbances(before)
    assert len(found) == bool(word)
    assert word in ''.join(found)


@pytest.mark.skipif(not os.path.exists('/proc/stat'), reason='counters of Linux')
def test_an_ended_child_is_no_disturbance():
    code = 'import time\nwhile time.process_time() < 1.5: pass'
    before = machine.cpu_seconds()
    subprocess.run([sys.executable, '-c', code], check=True)
    own, busy = (b - a for a, b in list(zip(before, machine.cpu_seconds(), strict=True))[1:3])
    assert own > 1.4
    assert busy > 1.3
