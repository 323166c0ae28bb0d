"""Fused twins: the deploy form of a model in training, for its eval mode.

A twin shares no tensor with its module, is no submodule of it and is in no copy, so it changes
nothing in weights, optimizers, averages and checkpoints.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..models.reparam import Reparameterizable, deploy_switches

# Activation checkpointing sets a forward on the instance, bound to the original.
NOT_SHARED = ('twin', 'forward', '_compiled_call_impl')


def add_twins(model: nn.Module) -> None:
    """Give every fusable module a fused twin of its current weights.

    In eval mode the module computes with the twin, until ``drop_twins``, training mode or new
    weights. Compiled code computes with the training form.

    Raises:
        UserError: If a module cannot be fused, see ``fuse``; then no module has a twin.
    """
    drop_twins(model)
    for name, twin in _fused_copies(model).items():
        model.get_submodule(name).__dict__['twin'] = twin  # setattr would make it a submodule


def drop_twins(model: nn.Module) -> None:
    """Compute with the training form again."""
    for module in model.modules():
        if isinstance(module, Reparameterizable):
            module.drop_twin()


def fused_weights(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of a model's training form to its deploy form.

    Args:
        model: A model that the weights fit; it does not change.
        weights: State dict of the training form, complete for all modules that are fused.

    Raises:
        CheckpointError: If the weights do not fit the backbone.
        UserError: If a module cannot be fused, see ``fuse``.
    """
    for name, fused in _fused_copies(model, weights).items():
        prefix = f'{name}.'.lstrip('.')
        weights = {key: value for key, value in weights.items() if not key.startswith(prefix)}
        weights |= fused.state_dict(prefix=prefix)
    return weights


@torch.no_grad()
def _fused_copies(
    model: nn.Module, weights: dict[str, Tensor] | None = None
) -> dict[str, nn.Module]:
    """Copy and fuse the outermost fusable modules, with other weights if given."""
    copies: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(not outer or name.startswith(f'{outer}.') for outer in copies)
        if inside or not isinstance(module, Reparameterizable) or module.deploy:
            continue
        copies[name] = copy = alias(module).eval()
        if weights is not None:
            start = f'{name}.'.lstrip('.')
            own = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            copy.load_state_dict(own, assign=True)
        for switch in deploy_switches(copy, name):
            switch()
    return copies


def alias(module: nn.Module) -> nn.Module:
    """Copy a module and its submodules, which share tensors' values and other attributes.

    Unlike a deep copy this uses no memory and accepts any attribute, such as stored activations.
    """
    cls: Any = type(module)
    if parametrize.is_parametrized(module):  # removing parametrizations changes the class
        members = {k: v for k, v in vars(cls).items() if k not in ('__dict__', '__weakref__')}
        cls = type(cls.__name__, cls.__bases__, members)
    copy = cls.__new__(cls)
    for name, value in vars(module).items():
        if name not in NOT_SHARED:
            copy.__dict__[name] = value.copy() if isinstance(value, dict) else value
    for name, parameter in module.named_parameters(recurse=False):
        setattr(copy, name, nn.Parameter(parameter.detach(), parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        setattr(copy, name, buffer.detach())
    for name, child in module.named_children():
        setattr(copy, name, alias(child))
    return copy
