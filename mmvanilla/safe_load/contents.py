"""Check the contents of a checkpoint after reading."""

from typing import Any

from torch import Tensor

from ..errors import CheckpointError


def check_contents(checkpoint: Any) -> None:
    """Check that a checkpoint is weights, and remove configs that libraries would run as Python.

    Resuming from mmdet 2's checkpoints runs ``meta['config']``. OpenMMLab's inferencers run
    ``meta['cfg']`` or the message hub's ``cfg`` if they get no config.

    Args:
        checkpoint: Contents of the file, changed in place.

    Raises:
        CheckpointError: The contents are no weights; the message says why, in the third person.
    """
    _check_dict('the checkpoint', checkpoint)
    for name in ('state_dict', 'ema_state_dict', 'model', 'model_ema'):
        is_state = name.endswith('state_dict')
        if name in checkpoint and (is_state or isinstance(checkpoint[name], dict)):
            for key, value in _check_dict(name, checkpoint[name]).items():
                if is_state and not isinstance(value, Tensor):
                    kind = type(value).__name__
                    raise CheckpointError(f'holds {key!r} in {name}, a {kind}, expected a tensor')
    levels = [checkpoint, *(value for value in checkpoint.values() if isinstance(value, dict))]
    if not any(isinstance(value, Tensor) for level in levels for value in level.values()):
        raise CheckpointError('holds no weights')
    hub = checkpoint.get('message_hub') or {}
    for name, parent in (('meta', checkpoint), ('message_hub', checkpoint), ('runtime_info', hub)):
        if parent.get(name) is not None:
            _check_dict(name, parent[name])
            texts = [parent[name].pop(key, None) for key in ('config', 'cfg')]
            if name == 'meta' and (text := next(filter(None, texts), None)):
                parent[name]['config_text'] = str(text)  # to read; no library runs this name


def _check_dict(name: str, value: Any) -> dict:
    """Return a value if it is a dict with strings for names."""
    if not isinstance(value, dict):
        holds = '' if name == 'the checkpoint' else f'{name}, '
        raise CheckpointError(f'holds {holds}a {type(value).__name__}, expected a dict')
    for key in value:
        if not isinstance(key, str):
            raise CheckpointError(f'holds a {type(key).__name__} for a name in {name}')
    return value
