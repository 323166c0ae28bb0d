"""Nets with trained batch norms."""

import pytest
import torch
from torch import nn


@pytest.fixture
def trained():
    """Randomize statistics and weights of batch norms, as training does."""

    def randomize(net):
        torch.manual_seed(0)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.5)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.25)
                module.num_batches_tracked.fill_(100)
        return net

    return randomize
