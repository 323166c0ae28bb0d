"""Parameters and multiply-adds, in both conventions: all there are, and those published."""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.cnn import get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


@dataclass
class Counts:
    """What a model has and does for one input.

    Attributes:
        params: Number of parameters.
        dense: Multiply-adds of convolutions, linear layers and other matrix products.
        depthwise: Multiply-adds of depthwise convolutions.
        published: Multiply-adds in the convention of the paper's Table 4, that of mmcv's counter:
            only of layers that are modules, which leaves out VanillaNet's series activations and
            the products within attention, but includes norms and pools.
    """

    params: int
    dense: int
    depthwise: int
    published: int

    @property
    def multiply_adds(self) -> int:
        """All multiply-adds."""
        return self.dense + self.depthwise


@torch.no_grad()
def count(
    model: nn.Module,
    call: Callable[[], object],
    leave_out: Callable[[nn.Module], bool] = lambda module: 'RoIExtractor' in type(module).__name__,
) -> Counts:
    """Count a model's parameters and the multiply-adds of one call of it.

    Args:
        model: The model; all of its modules count.
        call: Calls it, whole or in part.
        leave_out: Tells the modules whose products do not count among the dense ones; by default
            those that pool regions, which some implementations do as matrix products.
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
    # Before torch 2.4 it counts by module only those that it is told of; then it warns of that.
    modules = {} if hasattr(torch.utils, 'module_tracker') else {'mods': model}
    counter = FlopCounterMode(display=False, custom_mapping=mapping, **modules)
    with counter:
        call()
    by_module = counter.get_flop_counts()
    left_out = sum(
        sum(by_module.get(f'{type(model).__name__}.{name}', {}).values())
        for name, module in model.named_modules()
        if leave_out(module)
    )
    total = (counter.get_total_flops() - left_out) // 2
    return Counts(
        params=sum(p.numel() for p in model.parameters()),
        dense=total - depthwise,
        depthwise=depthwise,
        published=as_published(model, call),
    )


def as_published(model: nn.Module, call: Callable[[], object]) -> int:
    """Count multiply-adds as the authors' tools did, by mmcv's counter."""
    holder = _Call(model, call)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        flops, _ = get_model_complexity_info(
            holder,
            (1,),
            print_per_layer_stat=False,
            as_strings=False,
            input_constructor=lambda shape: {},
        )
    return round(flops)


class _Call(nn.Module):
    """Give mmcv's counter a module to call that holds all that a call runs."""

    def __init__(self, model: nn.Module, call: Callable[[], object]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self) -> object:
        return self.call()
