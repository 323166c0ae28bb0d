"""Count parameters and multiply-adds."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


@dataclass
class Counts:
    """Size of a model and its computation for one input.

    Attributes:
        params: Number of parameters.
        dense: Multiply-adds of convolutions, linear layers and other matrix products.
        depthwise: Multiply-adds of depthwise convolutions.
    """

    params: int
    dense: int
    depthwise: int

    @property
    def multiply_adds(self) -> int:
        """Return all multiply-adds."""
        return self.dense + self.depthwise


@torch.no_grad()
def count(model: nn.Module, call: Callable[[], object]) -> Counts:
    """Count the parameters of a model and the multiply-adds of one call, without RoI extractors.

    Some implementations of RoI pooling are matrix products, others are not.

    Args:
        model: The model.
        call: Runs the model or a part of it.
    """
    depthwise = 0

    def convolution(
        x: list[int], weight: list[int], *args: Any, out_shape: list[int], **kwargs: object
    ) -> int:
        nonlocal depthwise
        *_, transposed, _, groups = args  # the last three of aten's arguments
        flops = conv_flop_count(x, weight, out_shape, transposed=transposed)
        if groups == x[1] > 1:
            depthwise += flops // 2
        return flops

    mapping = {torch.ops.aten.convolution: convolution}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    left_out = 0

    def begin(*args: object) -> None:
        nonlocal left_out
        left_out -= counter.get_total_flops()

    def end(*args: object) -> None:
        nonlocal left_out
        left_out += counter.get_total_flops()

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if 'RoIExtractor' in type(module).__name__:
                stack.enter_context(module.register_forward_pre_hook(begin))
                stack.enter_context(module.register_forward_hook(end))
        stack.enter_context(counter)
        call()
    total = (counter.get_total_flops() - left_out) // 2
    return Counts(
        params=sum(p.numel() for p in model.parameters()),
        dense=total - depthwise,
        depthwise=depthwise,
    )
