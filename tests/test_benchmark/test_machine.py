"""The description of a machine."""

import re

import mmengine
import torch

from mmvanilla.benchmark import machine


def test_description():
    facts = machine.describe('cpu')
    assert facts['torch'] == torch.__version__
    assert facts['threads'] == str(torch.get_num_threads())
    assert re.match(r'\d+\.\d+', facts['python'])
    assert facts['processor']
    assert facts.get('mmengine', facts.get('onedl-mmengine')) == mmengine.__version__
