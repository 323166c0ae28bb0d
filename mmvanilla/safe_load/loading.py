"""Reading checkpoint files without ever running code from them.

First the container is checked, then the instructions of the pickle in it are read and compared with
a list; only then torch loads it, with ``weights_only=True`` and records in the place of all objects
but tensors. What comes out is rebuilt from tensors, numbers and texts, and checked in turn.
"""

import os
from typing import Any

import torch

from ..errors import CheckpointError, sentence
from .archive import ZIP, check_archive
from .contents import check_contents
from .digest import verified
from .records import RECORDS, plain
from .unpickler import PICKLE_MODULE

MAX_CAUSE = 150  # characters; torch explains at length


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load a checkpoint in torch's format or as safetensors, running nothing of what it holds.

    Args:
        filename: Path of the file, with ``#sha256=HASH`` behind it if its hash is to be checked.
        map_location: As in ``torch.load``; None is the CPU.

    Returns:
        What was saved, without the configs in it, which are Python and which resuming or an
        inferencer would run.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If its hash is another, or it is truncated, corrupt, not a checkpoint or
            holds anything but weights and the state of a training.
    """
    filename = verified(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'there is no checkpoint file {filename!r}; check the path')
    try:
        checkpoint = _read(filename, 'cpu' if map_location is None else map_location)
        check_contents(checkpoint)
    except ImportError as error:
        raise CheckpointError(
            f'{filename!r} needs the package safetensors: pip install safetensors'
        ) from error
    except CheckpointError as error:
        raise CheckpointError(
            f'checkpoint {filename!r} is refused, since it {error}; nothing of it was run'
        ) from error
    except Exception as error:  # of zipfile, pickletools, safetensors and torch at what is broken
        cause = f'{type(error).__name__}: {sentence(error)[:MAX_CAUSE]}'
        raise CheckpointError(f'{_diagnose(filename)} ({cause}); nothing of it was run') from error
    return checkpoint


def _read(filename: str, map_location: Any) -> Any:
    """Return what is in a file, made of nothing but tensors, numbers, texts and containers."""
    if filename.endswith('.safetensors'):
        from safetensors.torch import load_file

        return load_file(filename, device=str(map_location))
    check_archive(filename)
    if not hasattr(torch.serialization, 'safe_globals'):  # before 2.5
        options: Any = dict(pickle_module=PICKLE_MODULE, weights_only=False)
        return plain(torch.load(filename, map_location=map_location, **options))
    records: list[Any] = [(record, name) for name, record in RECORDS.items()]
    with torch.serialization.safe_globals(records):
        return plain(torch.load(filename, map_location=map_location, weights_only=True))


def _diagnose(filename: str) -> str:
    """Say in half a sentence why a file that is not refused could not be read."""
    if not os.path.getsize(filename):
        return f'checkpoint {filename!r} is an empty file'
    with open(filename, 'rb') as file:
        is_torch = file.read(len(ZIP)) == ZIP
    if is_torch or filename.endswith('.safetensors'):
        return f'checkpoint {filename!r} is truncated or corrupt, fetch or write it anew'
    return f'{filename!r} is not a checkpoint that torch.save wrote, or is corrupt'
