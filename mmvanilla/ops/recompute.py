"""Activation checkpointing that recomputes what is cheap and keeps what is dear."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from .traced import is_traced


def recompute(module: nn.Module, *args: object) -> Tensor:
    """Call a module; for the backward pass keep only what its dense convolutions gave.

    Norms, activations, pools and depthwise convolutions are recomputed. Those take a few percent of
    a layer's time and most of its memory. A second backward pass, as of a gradient penalty, PyTorch
    refuses.

    Args:
        module: What to call.
        *args: Its arguments.
    """
    if is_traced():
        return module(*args)
    if torch.compiler.is_compiling():  # takes no such contexts, and counts every batch once
        return checkpoint(module, *args, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, Any]:
        forward, again = create_selective_checkpoint_contexts(_policy)
        return forward, _SecondPass(module, again)

    return checkpoint(module, *args, use_reentrant=False, context_fn=contexts)


def _policy(ctx: object, operator: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    """Keep the output of a convolution whose channels are not in groups."""
    if operator is torch.ops.aten.convolution.default and args[-1] == 1:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


class _SecondPass:
    """Within it batch norms use the statistics of the batch without counting it once more."""

    def __init__(self, module: nn.Module, context: AbstractContextManager) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        self.context = context

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        self.context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        for norm, (momentum, count) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
