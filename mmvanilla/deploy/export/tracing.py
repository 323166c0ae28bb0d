"""Trace a model for images of any size."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from .pixels import STRIDE

DEFERRED = 'prefer_deferred_runtime_asserts_over_guards'  # of torch.export.export since 2.9


def min_size(model: nn.Module) -> int:
    """Return the smallest height and width, in pixels, that a model takes."""
    return getattr(model, 'min_size', 2)


@torch.no_grad()
def trace(model: nn.Module, image: Tensor) -> torch.export.ExportedProgram:
    """Trace a model for images of any height and width from ``min_size`` on.

    Args:
        model: An ``ImageFunction``, or a module like it.
        image: An example (1, C, H, W); only C, dtype and device matter.

    Returns:
        The program, for any number of images if the model is ``batched``.

    Raises:
        UserError: If this PyTorch is too old.
    """
    if DEFERRED not in inspect.signature(torch.export.export).parameters:
        raise UserError(
            f'this is torch {torch.__version__}, exporting needs torch 2.9 or later; update it'
        )
    # Tracing specializes sides of length 1, so the example is large; nothing is computed.
    stride = getattr(model, 'stride', STRIDE)
    batched = getattr(model, 'batched', False)
    example = image.new_empty(1 + batched, image.shape[1], 33 * stride + 7, 37 * stride + 11)
    side = torch.export.Dim.DYNAMIC(min=min_size(model))
    dynamic = {2: side, 3: side} | ({0: torch.export.Dim.DYNAMIC(min=1)} if batched else {})
    options: dict[str, Any] = {'dynamic_shapes': (dynamic,), DEFERRED: True}
    program = torch.export.export(model, (example,), strict=False, **options)
    allow_small_images(program, min_size(model))
    return program


def allow_small_images(program: torch.export.ExportedProgram, side: int) -> None:
    """Let a program take one image and images from a ``side`` on, in place.

    Tracing assumes that batches have more than one image and feature maps more than one row and
    column, although the operators take any. It records this as assertions in the graph and as
    bounds of the input's shape.
    """
    inputs = program.graph_signature.user_inputs
    least: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
        elif node.name in inputs:
            number, _, height, width = map(str, node.meta['val'].shape)
            least = {number: 1, height: side, width: side}
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    for symbol, bounds in program.range_constraints.items():
        if str(symbol) in least:
            program.range_constraints[symbol] = type(bounds)(least[str(symbol)], bounds.upper)
