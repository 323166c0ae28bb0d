"""Detect tracing and export, where custom operators are unknown."""

import torch

_is_exporting = getattr(torch.compiler, 'is_exporting', torch.jit.is_tracing)  # since torch 2.7


def is_traced() -> bool:
    """Return whether torch.jit.trace (also a FLOP counter's) or torch.export is at work."""
    return torch.jit.is_tracing() or _is_exporting()
