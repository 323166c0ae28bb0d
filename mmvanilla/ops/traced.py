"""Whether what is computed is recorded for others to read, who know PyTorch's operators alone."""

import torch

_is_exporting = getattr(torch.compiler, 'is_exporting', torch.jit.is_tracing)  # since torch 2.7


def is_traced() -> bool:
    """Tell whether torch.jit.trace, a counter of operations or torch.export is at work."""
    return torch.jit.is_tracing() or _is_exporting()
