"""Count multiply-adds by the convention of the paper's Table 4."""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from mmcv.cnn import get_model_complexity_info
from torch import nn

from mmvanilla.benchmark.counting import Counts, count


@dataclass
class PaperCounts(Counts):
    """Size of a model and its computation for one input, also by the paper's convention.

    Attributes:
        published: Multiply-adds by mmcv's counter, as the authors counted: layers that are modules,
            norms and pools included. It misses VanillaNet's series activations and the products in
            attention.
    """

    published: int


def count_both(model: nn.Module, call: Callable[[], object]) -> PaperCounts:
    """Count parameters, multiply-adds, and multiply-adds by the paper's convention.

    Args:
        model: The model.
        call: Runs the model or a part of it.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter('ignore')
        flops, _ = get_model_complexity_info(
            _Call(model, call),
            (1,),
            print_per_layer_stat=False,
            as_strings=False,
            input_constructor=lambda shape: {},
        )
    return PaperCounts(**asdict(count(model, call)), published=round(flops))


class _Call(nn.Module):
    """Make a call of a model the ``forward`` of a module, for mmcv's counter."""

    def __init__(self, model: nn.Module, call: Callable[[], object]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self) -> object:
        return self.call()
