"""Peak memory of calls with known tensors."""

import pytest
import torch
from torch import nn

from mmvanilla import VanillaNet, accelerate
from mmvanilla.benchmark.peak_memory import peak_memory


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
    found = peak_memory(model, lambda: model(x), torch.device('cpu'))
    assert found == pytest.approx(2**20 + 2 * x.nbytes, rel=0.01)
    assert other.sum() == 2**22


def test_accelerated_weights_count():
    net = VanillaNet(dict(dims=[256, 256], strides=[2]), (1,), deploy=True).eval()
    weights = sum(parameter.nbytes for parameter in net.parameters())
    accelerate(net, dtype='fp32')
    x = torch.rand(1, 3, 32, 32)
    found = peak_memory(net, lambda: net(x), torch.device('cpu'))
    assert found > weights
    activations = 256 * 8 * 8 * 4
    assert found == pytest.approx(weights, abs=8 * activations)
