"""Count parameters and multiply-adds, all of them and by the paper's convention."""

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
    """Size of a model and its computation for one input.

    Attributes:
        params: Number of parameters.
        dense: Multiply-adds of convolutions, linear layers and other matrix products.
        depthwise: Multiply-adds of depthwise convolutions.
        published: Multiply-adds by the convention of the paper's Table 4, which is mmcv's counter:
            layers that are modules, norms and pools included. It misses VanillaNet's series
            activations and the products in attention.
    """

    params: int
    dense: int
    depthwise: int
    published: int

    @property
    def multiply_adds(self) -> int:
        """Return all multiply-adds."""
        return self.dense + self.depthwise


def pools_regions(module: nn.Module) -> bool:
    """Detect RoI extractors; some implementations pool by matrix products."""
    return 'RoIExtractor' in type(module).__name__


@torch.no_grad()
def count(
    model: nn.Module,
    call: Callable[[], object],
    leave_out: Callable[[nn.Module], bool] = pools_regions,
) -> Counts:
    """Count the parameters of a model and the multiply-adds of one call.

    Args:
        model: The model.
        call: Runs the model or a part of it.
        leave_out: Detects modules to leave out of the count.
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
        for module in filter(leave_out, model.modules()):
            stack.enter_context(module.register_forward_pre_hook(begin))
            stack.enter_context(module.register_forward_hook(end))
        stack.enter_context(counter)
        call()
    total = (counter.get_total_flops() - left_out) // 2
    return Counts(
        params=sum(p.numel() for p in model.parameters()),
        dense=total - depthwise,
        depthwise=depthwise,
        published=as_published(model, call),
    )


def as_published(model: nn.Module, call: Callable[[], object]) -> int:
    """Count multiply-adds with mmcv's counter, as the authors did."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        flops, _ = get_model_complexity_info(
            _Call(model, call),
            (1,),
            print_per_layer_stat=False,
            as_strings=False,
            input_constructor=lambda shape: {},
        )
    return round(flops)


class _Call(nn.Module):
    """Make a call of a model the ``forward`` of a module, for mmcv's counter."""

    def __init__(self, model: nn.Module, call: Callable[[], object]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self) -> object:
        return self.call()
