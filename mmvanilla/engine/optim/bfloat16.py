"""Mixed precision without a loss scaler, on the CPU as well."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Compute the forward pass in bfloat16 where autocast deems it safe; weights stay float32.

    bfloat16 has the range of float32, so losses need no scaling. mmengine's ``AmpOptimWrapper``
    scales them, for float16, and runs on accelerators only.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast, and what mmengine enters to accumulate gradients.

        Args:
            model: The model in training.
        """
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
