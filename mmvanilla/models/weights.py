"""Convert VanillaNet's published checkpoints and check that weights fit a net.

ImageNet nets are ``{'model': ..., 'model_ema': ...}``, with names of backbone and head that have no
prefix. Detectors are ``{'meta': ..., 'state_dict': ...}``, with the prefix ``backbone.``.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import CheckpointError
from ..safe_load import convert_with

BACKBONE_NAMES = ('stem.', 'stem1.', 'stem2.', 'stages.', '_act_learn')
WRAPPERS = re.compile(r'^((module|_orig_mod)\.)+|(?<=\.)_orig_mod\.')
UNIQUE_NAMES = ('stem1.', 'stages.0.act.')  # no other net has them
OPTIONAL = ('num_batches_tracked', '_act_learn')  # may be missing in a checkpoint
NO_BACKBONE = (
    'the checkpoint holds no weights of a VanillaNet under the name {!r}; check the file, and put '
    "an ImageNet net into the backbone's init_cfg or call mmvanilla.safe_loading() before loading"
)


def to_state_dict(checkpoint: dict) -> dict:
    """Rename the weights of a checkpoint as in models of mmpretrain, mmdet and mmseg.

    The prefixes of wrappers are removed: ``module.`` of DataParallel and ``_orig_mod.`` of
    torch.compile. The weights of an ImageNet net get the prefixes ``backbone.`` and ``head.``;
    averaged weights are preferred. Every other checkpoint is returned as it is.
    """
    state_dicts = [checkpoint.get(name) for name in ('state_dict', 'model_ema', 'model')]
    weights = next((w for w in state_dicts if isinstance(w, dict) and w), checkpoint)
    names = {name: unwrapped(name) for name in weights if name != 'n_averaged'}  # swa_utils' count
    if any(name.startswith(UNIQUE_NAMES) for name in names.values()):
        names = {
            old: ('backbone.' if name.startswith(BACKBONE_NAMES) else 'head.') + name
            for old, name in names.items()
        }
    if all(old == name for old, name in names.items()):
        return checkpoint
    others = checkpoint if weights is checkpoint.get('state_dict') else {}
    return dict(others, state_dict={new: weights[old] for old, new in names.items()})


convert_with(to_state_dict)


def unwrapped(name: str) -> str:
    """Remove the prefixes of wrappers from the name of a tensor."""
    return WRAPPERS.sub('', name)


def unwrapped_prefix(init_cfg: Any) -> Any:
    """Remove the prefixes of wrappers from the prefix in an ``init_cfg``.

    Loading removes them from the names in the file.
    """
    if not (isinstance(init_cfg, dict) and init_cfg.get('prefix')):
        return init_cfg
    prefix = unwrapped(f'{init_cfg["prefix"].removesuffix(".")}.')
    return dict(init_cfg, prefix=prefix or None)


def fit(state_dict: dict, net: nn.Module, prefix: str) -> bool:
    """Adapt a state dict to a VanillaNet, in place; return whether it has weights of the net.

    Kernels of a smaller ``act_num`` are padded with zeros, which does not change their outputs.
    Counters of batches and ``act_learn`` are optional. Weights of stages after the net's last level
    are dropped. If the backbone itself is loaded, the prefix ``backbone.`` is removed, and the
    weights of heads are dropped.

    Args:
        state_dict: The argument of ``_load_from_state_dict``.
        net: The VanillaNet.
        prefix: Name of the net in the model, with a dot at the end; '' if the net is the model.
            With a prefix, a state dict without weights of the net is left as it is.

    Raises:
        CheckpointError: If the weights are of another net or incomplete.
    """
    if prefix and not any(name.startswith(prefix) for name in state_dict):
        return False
    if not prefix:
        for name in list(state_dict):
            short, value = name.removeprefix('backbone.'), state_dict.pop(name)
            if short.startswith(BACKBONE_NAMES):
                state_dict[short] = value
    numbers = range(len(net.stages), len(net.arch['strides']))
    unused = tuple(f'{prefix}stages.{i}.' for i in numbers)
    for name in [name for name in state_dict if name.startswith(unused)]:
        del state_dict[name]
    deployed = any(name.startswith(f'{prefix}stem.') for name in state_dict)
    if not deployed and not any(name.startswith(f'{prefix}stem1.') for name in state_dict):
        raise CheckpointError(NO_BACKBONE.format(prefix))
    _check_form('backbone', deployed, net.deploy)
    remedy = "set the backbone's arch to that of the checkpoint"
    expected = _expected(state_dict, net, prefix, f'it is of another net or incomplete; {remedy}')
    smaller = [name for name, value in expected.items() if state_dict[name].shape != value.shape]
    for name in smaller:
        state_dict[name] = _pad_kernel(name, state_dict[name], expected[name], remedy)
    if surplus := sorted(state_dict.keys() - expected.keys()):
        raise CheckpointError(
            f'the checkpoint holds {surplus[0]!r}, which the net does not have, so it is of '
            f'another net; {remedy}'
        )
    note = f', {len(smaller)} of them with kernels padded from a smaller act_num' if smaller else ''
    print_log(f'VanillaNet: {len(expected)} tensors loaded{note}', logger='current')
    return True


def fit_head(state_dict: dict, head: nn.Module, prefix: str) -> None:
    """Check a state dict for a VanillaNetClsHead; without weights of a head, do nothing."""
    if not any(name.startswith((f'{prefix}cls.', f'{prefix}cls1.')) for name in state_dict):
        return
    _check_form('head', f'{prefix}cls.2.weight' in state_dict, head.deploy)
    reason = 'its head is incomplete; use another checkpoint'
    for name, value in _expected(state_dict, head, prefix, reason).items():
        found = state_dict[name]
        if found.ndim and len(found) != len(value):
            raise CheckpointError(
                f'the checkpoint has {len(found)} classes and the head {len(value)}; set '
                f'num_classes={len(found)} on the head, or, to train other classes, put the '
                "checkpoint into the backbone's init_cfg"
            )
        if found.shape != value.shape:
            remedy = "set the head's in_channels to that of the checkpoint"
            raise CheckpointError(_misfit(name, found, value, remedy))


def _check_form(module: str, found: bool, deploy: bool) -> None:
    """Raise CheckpointError unless a checkpoint has the form of a module."""
    if found != deploy:
        forms = ['deploy' if form else 'training' for form in (found, deploy)]
        use = f'set deploy={found} on the {module}'
        if found:
            use = f'to train, use the checkpoint from before fusion; to predict, {use}'
        raise CheckpointError(
            f'the checkpoint is in {forms[0]} form, but the {module} is in {forms[1]} form; {use}'
        )


def _expected(state_dict: dict, module: nn.Module, prefix: str, reason: str) -> dict[str, Tensor]:
    """Return a module's tensors by their names; add the optional ones to the state dict."""
    expected = {prefix + name: value for name, value in module.state_dict(keep_vars=True).items()}
    for name, value in expected.items():
        if name not in state_dict and not name.endswith(OPTIONAL):
            raise CheckpointError(f'the checkpoint lacks {name!r}, so {reason}')
        if value.is_meta:
            value = torch.full_like(value, name.endswith('_act_learn'), device='cpu')
        state_dict.setdefault(name, value)
    return expected


def _pad_kernel(name: str, found: Tensor, value: Tensor, remedy: str) -> Tensor:
    """Pad a depthwise kernel with zeros to the expected size."""
    margin = (value.shape[-1] - found.shape[-1]) // 2
    if found.ndim != 4 or found.shape[:2] != value.shape[:2] or value.shape[1] != 1:
        raise CheckpointError(_misfit(name, found, value, remedy))
    if margin <= 0:
        raise CheckpointError(
            f'{name!r} is {found.shape[-1]} wide in the checkpoint and {value.shape[-1]} in the '
            f'net; set act_num of the backbone to at least {found.shape[-1] // 2}'
        )
    return F.pad(found, [margin] * 4)


def _misfit(name: str, found: Tensor, value: Tensor, remedy: str) -> str:
    shapes = tuple(found.shape), tuple(value.shape)
    return f'{name!r} has the shape {shapes[0]} in the checkpoint and {shapes[1]} here; {remedy}'


def check_weights(model: nn.Module, weights: dict) -> None:
    """Raise CheckpointError unless weights hold a model's tensors in their shapes.

    A VanillaNet needs at least one weight here and checks the others when it is loaded.
    """
    nets = [f'{name}.' for name, m in model.named_modules() if hasattr(m, 'weights_loaded')]
    for net in nets:
        if not any(name.startswith(net) for name in weights):
            raise CheckpointError(NO_BACKBONE.format(net))
    remedy = 'use the checkpoint of this config'
    for name, value in model.state_dict().items():
        if name.endswith(OPTIONAL) or name.startswith(tuple(nets)):
            continue
        if name not in weights:
            raise CheckpointError(
                f'the checkpoint lacks {name!r}, which would stay random; {remedy}'
            )
        if weights[name].shape != value.shape:
            raise CheckpointError(_misfit(name, weights[name], value, remedy))
