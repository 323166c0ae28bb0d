"""Reading checkpoint files without ever running code from them.

mmengine's training checkpoints hold a few objects besides tensors, which torch >= 2.6 refuses to
load by default. Here exactly those are let in. `builtins.getattr`, by which pickle refers to the
methods of mmengine's HistoryBuffer, is replaced by a look-up of these methods and of nothing else.

Importing this module makes all of mmengine's checkpoint loading (local files and URLs) come here.
"""

import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlparse

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from .published import to_state_dict


def _history_buffer_method(owner: object, name: str) -> Callable:
    """Stand in for ``getattr`` where a pickle refers to a statistics method of HistoryBuffer."""
    methods = {'min', 'max', 'mean', 'current'}
    if owner is not HistoryBuffer or name not in methods:
        raise CheckpointError(f'the attribute {name!r} of {owner!r} is asked for')
    return getattr(HistoryBuffer, name)


SAFE_GLOBALS: list = [
    HistoryBuffer,
    (_history_buffer_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ('?', 'i1', 'u1', 'i4', 'i8', 'f2', 'f4', 'f8')},
    # Both names by which numpy 2 and numpy 1 refer to these two functions.
    *(
        (function, f'{module}.{function.__name__}')
        for function in (np._core.multiarray._reconstruct, np._core.multiarray.scalar)
        for module in ('numpy._core.multiarray', 'numpy.core.multiarray')
    ),
]


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load a checkpoint in torch's format or as safetensors, running nothing of what it holds.

    Args:
        filename: Path of the file.
        map_location: As in :func:`torch.load`.

    Returns:
        What was saved, published ImageNet weights in OpenMMLab's form, without ``meta['config']``,
        which resuming would run as Python.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is truncated, corrupt, not a checkpoint or holds forbidden pickles.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'there is no checkpoint file {filename!r}; check the path')
    try:
        if filename.endswith('.safetensors'):
            return to_state_dict(load_safetensors(filename, map_location))
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            checkpoint = torch.load(filename, map_location=map_location, weights_only=True)
    except ImportError as error:
        raise CheckpointError(
            f'{filename!r} needs the package safetensors: pip install safetensors'
        ) from error
    except Exception as error:
        raise CheckpointError(f'{_diagnose(filename, error)}; nothing of it was run') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'checkpoint {filename!r} holds a {type(checkpoint).__name__}, expected a dict'
        )
    if isinstance(meta := checkpoint.get('meta'), dict):
        meta.pop('config', None)
    return to_state_dict(checkpoint)


def load_safetensors(filename: str, map_location: Any) -> dict:
    """Load a file of bare tensors."""
    from safetensors.torch import load_file

    return load_file(filename, device=str(map_location or 'cpu'))


def load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
) -> dict:
    """Download a checkpoint unless it is there, and load it as :func:`load_from_local` does.

    Args:
        url: Where it is.
        model_dir: Folder to keep it in, by default torch.hub's.
        map_location: As in :func:`torch.load`.
        progress: Show a progress bar.

    Raises:
        CheckpointError: If it cannot be downloaded or loaded.
    """
    model_dir = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    filename = os.path.join(model_dir, os.path.basename(urlparse(url).path))
    if not os.path.isfile(filename):
        os.makedirs(model_dir, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, filename, progress=progress)
        except OSError as error:
            raise CheckpointError(
                f'checkpoint {url} cannot be downloaded ({error}); fetch it to {filename!r} '
                'or name a local file'
            ) from error
    return load_from_local(filename, map_location)


mmengine.runner.checkpoint.load_url = load_url


def _diagnose(filename: str, error: Exception) -> str:
    """Say in half a sentence why a file could not be loaded."""
    text = str(error)
    if forbidden := re.search(r'GLOBAL (\S+)|(the attribute .* of .*) is asked for', text):
        return (
            f'checkpoint {filename!r} is refused, since it holds more than weights '
            f'({forbidden[1] or forbidden[2]})'
        )
    if not os.path.getsize(filename):
        return f'checkpoint {filename!r} is an empty file'
    with open(filename, 'rb') as file:
        is_zip = file.read(2) == b'PK'
    if is_zip:
        return f'checkpoint {filename!r} is truncated or corrupt, fetch or write it anew'
    return f'{filename!r} is not a checkpoint that torch.save wrote, or is corrupt'
