"""Peak memory of calls with known tensors, and allocations that are too large."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mmvanilla import VanillaNet, accelerate
from mmvanilla.benchmark import peak_memory as memory


class Twice(nn.Module):
    """Holds the doubled input and one more copy at its peak, and a weight of 1 MiB."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2**18))

    def forward(self, x):
        doubled = x + x
        return doubled + 1


def test_peak():
    model, x = Twice(), torch.ones(2**20)
    other = torch.ones(2**22)  # lies in memory, but is not the model's
    found = memory.peak_memory(model, lambda: model(x), torch.device('cpu'))
    assert found == pytest.approx(2**20 + 2 * x.nbytes, rel=0.01)
    assert other.sum() == 2**22


def test_accelerated_weights_count():
    net = VanillaNet(dict(dims=[256, 256], strides=[2]), (1,), deploy=True).eval()
    weights = sum(parameter.nbytes for parameter in net.parameters())
    accelerate(net, dtype='fp32')
    x = torch.rand(1, 3, 32, 32)
    found = memory.peak_memory(net, lambda: net(x), torch.device('cpu'))
    assert found > weights
    activations = 256 * 8 * 8 * 4
    assert found == pytest.approx(weights, abs=8 * activations)


@pytest.mark.alone
def test_too_little():
    for allocate in (partial(torch.empty, dtype=torch.uint8), partial(np.zeros, dtype=np.uint8)):
        with pytest.raises(Exception, match=r'.*') as caught, memory.bounded_memory(2**28):  # noqa: PT012
            allocate(2**24)
            allocate(2**30)
        assert memory.is_out_of_memory(caught.value)
        assert len(allocate(2**30)) == 2**30  # the bound is gone


def test_other_errors_are_none_of_memory():
    assert not memory.is_out_of_memory(RuntimeError('shapes do not match'))


def test_available_memory():
    available = memory.available_memory()
    assert available is None or 2**20 < available < 2**50
