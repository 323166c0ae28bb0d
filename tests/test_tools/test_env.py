"""tools/env.py, whose output a report of a fault has."""

import mmengine
import numpy as np
import torch

import mmvanilla


def test_versions_and_machine(tool_output):
    lines = tool_output('env.py').splitlines()
    facts = dict(line.split(': ', 1) for line in lines if ': ' in line)
    assert facts['mmvanilla'] == mmvanilla.__version__
    assert facts['torch'] == torch.__version__
    assert facts['MMEngine'] == mmengine.__version__
    assert facts['numpy'] == np.__version__  # a dependency of the package
    assert facts['processor']
    assert facts['cores']
