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
    _check_dict('the checkpoint', checkpoint)
    for name in checkpoint.keys() & {'state_dict', 'ema_state_dict'}:
        _check_dict(name, checkpoint[name])
        for key, value in checkpoint[name].items():
            if not isinstance(value, Tensor):
                raise CheckpointError(
                    f'holds {key!r} in {name}, a {type(value).__name__}, expected a tensor'
                )
    levels = [checkpoint, *(value for value in checkpoint.values() if isinstance(value, dict))]
    if not any(isinstance(value, Tensor) for level in levels for value in level.values()):
        raise CheckpointError('holds no weights')
    for name in ('model', 'model_ema'):
        if isinstance(checkpoint.get(name), dict):
            _check_dict(name, checkpoint[name])
    hub = checkpoint.get('message_hub') or {}
    for name, parent in (('meta', checkpoint), ('message_hub', checkpoint), ('runtime_info', hub)):
        if parent.get(name) is not None:
            _check_dict(name, parent[name])
            texts = [parent[name].pop(key, None) for key in ('config', 'cfg')]
            if name == 'meta' and (text := next(filter(None, texts), None)):
                parent[name]['config_text'] = str(text)  # to be read, under a name that none runs


def _check_dict(name: str, value: Any) -> None:
    """Check that something is a dict whose names are texts."""
    if not isinstance(value, dict):
        raise CheckpointError(f'holds {name}, a {type(value).__name__}, expected a dict')
    for key in value:
        if not isinstance(key, str):
            raise CheckpointError(f'holds a {type(key).__name__} for a name in {name}')
