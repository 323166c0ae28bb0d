"""Activation checkpointing that recomputes what is cheap and keeps what is dear."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import checkpoint as checkpointing

from ..backports import is_compiling
from .traced import is_traced

IS_SELECTIVE = hasattr(checkpointing, 'create_selective_checkpoint_contexts')  # torch 2.4


def recompute(module: nn.Module, *args: object) -> Tensor:
    """Call a module; for the backward pass keep only what its dense convolutions gave.

    Norms, activations, pools and depthwise convolutions are recomputed. Those take a few percent of
    a layer's time and most of its memory. Before torch 2.4, which cannot choose, all is recomputed.

    Args:
        module: What to call.
        *args: Its arguments.
    """
    if is_traced():
        return module(*args)
    if is_compiling():  # takes no such contexts, and counts every batch once
        return checkpointing.checkpoint(module, *args, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        if not IS_SELECTIVE:
            warnings.warn(
                f'with_cp recomputes whole layers, since torch {torch.__version__} cannot keep '
                'what their 1x1 convolutions gave; torch 2.4 can, which is faster',
                stacklevel=2,
            )
            return nullcontext(), _second_pass(module, nullcontext())
        forward, again = checkpointing.create_selective_checkpoint_contexts(_policy)
        return forward, _second_pass(module, again)

    return checkpointing.checkpoint(module, *args, use_reentrant=False, context_fn=contexts)


def _policy(ctx: object, operator: object, *args: object, **kwargs: object) -> Any:
    """Keep the output of a convolution whose channels are not in groups."""
    policy = checkpointing.CheckpointPolicy
    if operator is torch.ops.aten.convolution.default and args[-1] == 1:
        return policy.MUST_SAVE
    return policy.PREFER_RECOMPUTE


@contextmanager
def _second_pass(module: nn.Module, context: AbstractContextManager) -> Iterator[None]:
    """Let batch norms use the statistics of the batch without counting it once more."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        with context:
            yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
