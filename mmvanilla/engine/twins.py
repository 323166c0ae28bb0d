"""Fused twins: the deploy form of a model in training, for its eval mode.

A twin shares no tensor with its module, is no submodule of it and is in no copy, so it changes
nothing in weights, optimizers, averages and checkpoints.
"""

import torch
from torch import Tensor, nn

from ..copies import alias
from ..models.reparam import Reparameterizable, deploy_switches


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
