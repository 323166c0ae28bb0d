"""Checks of what a checkpoint holds, after it was read."""

from typing import Any

from torch import Tensor

from ..errors import CheckpointError


def check_contents(checkpoint: Any) -> None:
    """Check that a checkpoint is weights, and take out of it what libraries would run as Python.

    That is the config of the training: resuming from mmdet 2's checkpoints runs ``meta['config']``,
    and OpenMMLab's inferencers, given a checkpoint alone, run ``meta['cfg']`` or the message hub's.

    Args:
        checkpoint: What was in the file, changed in place.

    Raises:
        CheckpointError: If it is none; the message is what the checkpoint does, in the third
            person.
    """
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'holds a {type(checkpoint).__name__}, expected a dict')
    _check_names('checkpoint', checkpoint)
    for name in ('state_dict', 'ema_state_dict'):
        if name in checkpoint:
            _check_weights(name, checkpoint[name])
    for name in ('model', 'model_ema'):
        if isinstance(checkpoint.get(name), dict):
            _check_names(name, checkpoint[name])
    if not _has_weights(checkpoint):
        raise CheckpointError('holds no weights')
    meta = _dict_or_none('meta', checkpoint.get('meta'))
    hub = _dict_or_none('message_hub', checkpoint.get('message_hub'))
    info = _dict_or_none('message_hub.runtime_info', hub.get('runtime_info'))
    for name in ('config', 'cfg'):
        meta.pop(name, None)
        info.pop(name, None)


def _check_names(name: str, values: dict) -> None:
    for key in values:
        if not isinstance(key, str):
            raise CheckpointError(f'holds a {name} with a {type(key).__name__} for a name')


def _check_weights(name: str, weights: Any) -> None:
    """Check that a state dict holds tensors by name."""
    if not isinstance(weights, dict):
        raise CheckpointError(f'holds a {name} that is a {type(weights).__name__}, expected a dict')
    _check_names(name, weights)
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f'holds {key!r} in its {name}, a {type(value).__name__}, expected a tensor'
            )


def _has_weights(checkpoint: dict) -> bool:
    """Tell whether there is a tensor, by name or one level deeper."""
    levels = [checkpoint, *(value for value in checkpoint.values() if isinstance(value, dict))]
    return any(isinstance(value, Tensor) for level in levels for value in level.values())


def _dict_or_none(name: str, value: Any) -> dict:
    """Return a dict, an empty one for None."""
    if not isinstance(value, dict | None):
        raise CheckpointError(f'holds {name}, a {type(value).__name__}, expected a dict')
    return {} if value is None else value
