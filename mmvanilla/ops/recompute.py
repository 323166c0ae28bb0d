"""Activation checkpointing that recomputes cheap operators and stores expensive outputs."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import checkpoint as checkpointing

from ..backports import COMPILES, is_compiling, is_traced

IS_SELECTIVE = hasattr(checkpointing, 'create_selective_checkpoint_contexts')  # torch 2.4


def recompute(module: nn.Module, *args: object) -> Tensor:
    """Call a module and store only the outputs of its dense convolutions for backward.

    Norms, activations, pools and depthwise convolutions are recomputed: they take a few percent of
    a layer's time and most of its memory. Before torch 2.4 everything is recomputed. PyTorch
    refuses a second backward pass, as for a gradient penalty.

    """
    # Compiled by torch before 2.8, recomputed norms count a batch twice.
    if is_traced() or (is_compiling() and not COMPILES):
        return module(*args)
    if is_compiling():  # the compiler takes no contexts, and counts every batch once
        return checkpointing.checkpoint(module, *args, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, Any]:
        if not IS_SELECTIVE:
            warnings.warn(
                f'with_cp recomputes whole layers, since torch {torch.__version__} cannot store '
                'the outputs of single operators; torch 2.4 can, which is faster',
                stacklevel=2,
            )
            return nullcontext(), _SecondPass(module, nullcontext())
        forward, again = checkpointing.create_selective_checkpoint_contexts(_policy)
        return forward, _SecondPass(module, again)

    return checkpointing.checkpoint(module, *args, use_reentrant=False, context_fn=contexts)


def _policy(ctx: object, operator: object, *args: object, **kwargs: object) -> Any:
    """Store the outputs of ungrouped convolutions."""
    policy = checkpointing.CheckpointPolicy
    if operator is torch.ops.aten.convolution.default and args[-1] == 1:
        return policy.MUST_SAVE
    return policy.PREFER_RECOMPUTE


class _SecondPass:
    """A context in which batch norms do not update their running statistics."""

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
