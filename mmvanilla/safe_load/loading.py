"""Read checkpoint files without running code from them.

``check_archive`` checks the container and the instructions of its pickle first. Then torch loads it
with ``weights_only=True``. Numpy arrays, loss histories and other objects of a training are loaded
as records, which become the objects only after their contents are checked.
"""

import os
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import CheckpointError, sentence
from .archive import ZIP, check_archive
from .contents import check_contents
from .digest import verified
from .pickle_code import check_global
from .records import RECORDS, rebuilt

MAX_CAUSE = 150  # characters of torch's explanations
_converters: list[Callable[[dict], dict]] = []


def convert_with(converter: Callable[[dict], dict]) -> None:
    """Register a function that converts every loaded checkpoint, for example renames weights."""
    _converters.append(converter)


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load a checkpoint in torch's format or as safetensors, running nothing from it.

    Args:
        filename: Path of the file, followed by ``#sha256=HASH`` to check its hash.
        map_location: As in ``torch.load``; None is the CPU.

    Returns:
        The contents, without configs: resuming and inferencers would run their Python code.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file has another hash, is truncated, corrupt or not a checkpoint, or
            holds anything but weights and the state of a training.
    """
    filename = verified(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'there is no checkpoint file {filename!r}; check the path')
    try:
        checkpoint = _read(filename, 'cpu' if map_location is None else map_location)
        check_contents(checkpoint)
        for convert in _converters:
            checkpoint = convert(checkpoint)
            check_contents(checkpoint)
    except ImportError as error:
        raise CheckpointError(
            f'{filename!r} needs the package safetensors: pip install safetensors'
        ) from error
    except CheckpointError as error:
        raise CheckpointError(
            f'checkpoint {filename!r} is refused, since it {error}; nothing of it was run'
        ) from error
    except Exception as error:  # of many types, from zipfile, pickletools, safetensors, torch
        cause = f'{type(error).__name__}: {sentence(error)[:MAX_CAUSE]}'
        raise CheckpointError(f'{_diagnose(filename)} ({cause}); nothing of it was run') from error
    return checkpoint


def _read(filename: str, map_location: Any) -> Any:
    """Return the contents of a file: tensors, numbers, strings and containers."""
    if filename.endswith('.safetensors'):
        from safetensors.torch import load_file

        return load_file(filename, device=str(map_location))
    check_archive(filename)
    if not hasattr(torch.serialization, 'safe_globals'):  # before 2.5
        module: Any = SimpleNamespace(Unpickler=Unpickler, __name__=__name__)
        module.load = lambda file, **options: Unpickler(file, **options).load()
        loaded = torch.load(
            filename, map_location=map_location, pickle_module=module, weights_only=False
        )
    else:
        records: list[Any] = [(record, name) for name, record in RECORDS.items()]
        with torch.serialization.safe_globals(records):
            loaded = torch.load(filename, map_location=map_location, weights_only=True)
    return rebuilt(loaded)


class Unpickler(pickle.Unpickler):
    """Unpickler for torch before 2.5, whose ``weights_only`` accepts no records."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a record, or an allowed class or function."""
        return RECORDS.get(check_global(module, name)) or super().find_class(module, name)


def _diagnose(filename: str) -> str:
    """Return why a file could not be read."""
    with open(filename, 'rb') as file:
        start = file.read(len(ZIP))
    if not start:
        return f'checkpoint {filename!r} is an empty file'
    if start == ZIP or filename.endswith('.safetensors'):
        return f'checkpoint {filename!r} is truncated or corrupt; download or save it again'
    return f'{filename!r} is not a checkpoint that torch.save wrote, or is corrupt'
