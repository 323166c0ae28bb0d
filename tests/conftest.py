"""Importing the package first lets the tests import mmdet and mmseg in any order."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import mmvanilla  # noqa: F401


@pytest.fixture
def trained():
    """Give a model what training would: batch norms whose statistics and weights all differ."""

    def randomize(model, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                size = module.running_mean.shape
                module.running_mean.copy_(torch.randn(size, generator=generator) / 2)
                module.running_var.copy_(torch.rand(size, generator=generator) * 1.5 + 0.5)
                module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
                module.bias.data.copy_(torch.randn(size, generator=generator) / 4)
                module.num_batches_tracked.fill_(100)
        return model

    return randomize
