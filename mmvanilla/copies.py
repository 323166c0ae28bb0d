"""Copies of modules that share tensors, and comparison of modules by their outputs."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

# Activation checkpointing sets a forward on the instance, bound to the original.
NOT_SHARED = ('twin', 'forward', '_compiled_call_impl')


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


@torch.no_grad()
def same_outputs(old: nn.Module, new: nn.Module, channels: int, side: int) -> bool:
    """Return whether two modules compute the same in eval mode.

    Copies of both map a random image (1, channels, side, side), and their hooks run. They are the
    same up to 1e-4 of the norm of the outputs.
    """
    like = next(old.parameters())
    dtype = torch.promote_types(like.dtype, torch.float32)  # float64 is slow on a CPU
    if like.is_cuda:
        dtype = torch.float64  # float32 may be TF32
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, side, side, generator=generator).to(like.device, dtype)
    outs = []
    for module in (old, new):
        copy = alias(module).eval()
        for child in copy.modules():
            free_weight(child)  # spectral norms are inexact in 16 bit
        outs.append(copy.to(dtype)(image))
    found, expected = outs
    if any('forward' in vars(child) for child in old.modules()) or found.shape != expected.shape:
        return False
    return bool((found - expected).norm() <= 1e-4 * expected.norm())


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward hooks or a forward method of its own."""
    hooks = module._forward_hooks, module._forward_pre_hooks  # torch has no public list of hooks
    return any(hooks) or 'forward' in vars(module)


def weight_hooks(module: nn.Module) -> dict[int, Any]:
    """Return the hooks that compute a weight before forward, by id: pruning and old norms."""
    types = (BasePruningMethod, WeightNorm, SpectralNorm)
    hooks = module._forward_pre_hooks.items()
    return {key: hook for key, hook in hooks if isinstance(hook, types)}


def free_weight(module: nn.Module) -> None:
    """Remove pruning and parametrizations, so that the weight is a parameter again."""
    if parametrize.is_parametrized(module, 'weight'):
        parametrize.remove_parametrizations(module, 'weight')
    for key, hook in weight_hooks(module).items():
        hook.remove(module)
        del module._forward_pre_hooks[key]
