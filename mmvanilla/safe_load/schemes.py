"""Every way in which mmengine finds a checkpoint, brought to the safe loader while that is wanted.

``Runner.load_checkpoint``, ``Runner.resume``, ``init_cfg=dict(type='Pretrained', ...)`` and the
loading functions of mmdet, mmseg and mmpretrain all ask mmengine's ``CheckpointLoader``, which
picks a function by the beginning of the name.
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NoReturn

import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.dist import barrier, get_rank
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from .digest import MARK
from .download import fetch
from .loading import load_from_local

Adapt = Callable[[dict], dict]
# What is in force: the loaders that were found, while ours are in their place.
_found: OrderedDict | None = None


class safe_loading:
    """Load every checkpoint without running anything of it, from now on or within a ``with`` block.

    ``safe_loading()`` is a switch for the whole process, ``safe_loading(False)`` switches back;
    ``with safe_loading():`` holds within the block only. Storages whose clients unpickle what they
    fetch (s3://, petrel://, pavi://) are refused meanwhile.

    Args:
        enabled: Whether to load safely.
        adapt: What is done to each checkpoint that was read, such as renaming its weights.
    """

    def __init__(self, enabled: bool = True, adapt: Adapt = lambda checkpoint: checkpoint) -> None:
        global _found
        # mmengine has a way to register a loader, but none to take it back.
        self._before = CheckpointLoader._schemes, _found
        if enabled:
            _found = CheckpointLoader._schemes if _found is None else _found
            CheckpointLoader._schemes = OrderedDict(_found)
            for prefixes, load in LOADERS.items():
                register = partial(CheckpointLoader.register_scheme, prefixes, force=True)
                register(partial(_adapted, load, adapt))
        elif _found is not None:
            CheckpointLoader._schemes, _found = _found, None

    def __enter__(self) -> None:
        """Load safely, as since the call."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Load as before."""
        global _found
        CheckpointLoader._schemes, _found = self._before


def _adapted(
    load: Callable[..., dict], adapt: Adapt, filename: str, map_location: Any = None
) -> dict:
    return adapt(load(filename, map_location))


def load_from_http(filename: str, map_location: Any = None) -> dict:
    """Download a checkpoint, the first process before the others, and load it."""
    if get_rank() == 0:
        fetch(filename)
    barrier()
    return load_from_local(fetch(filename), map_location)


def load_from_torchvision(filename: str, map_location: Any = None) -> dict:
    """Load weights by torchvision's name of them, such as ``torchvision://resnet50``."""
    return _load_named(filename, mmengine_checkpoint.get_torchvision_models(), map_location)


def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    """Load weights by OpenMMLab's name of them."""
    urls = mmengine_checkpoint.get_external_models()
    renamed = mmengine_checkpoint.get_deprecated_model_names()
    aliases = {old: urls[new] for old, new in renamed.items() if new in urls}
    return _load_named(filename, {**urls, **aliases}, map_location)


def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    """Load a backbone by mmpretrain's name of its classifier."""
    checkpoint = _load_named(filename, mmengine_checkpoint.get_mmcls_models(), map_location)
    weights = checkpoint.get('state_dict', checkpoint)
    start = 'backbone.'
    return dict(
        state_dict={k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
    )


def load_from_storage(filename: str, map_location: Any = None) -> NoReturn:
    """Refuse the storages of which mmengine would unpickle what they send."""
    raise CheckpointError(
        f'checkpoint {filename!r} is in a storage that is not read safely; fetch it and name the '
        'local file'
    )


def _load_named(name: str, urls: dict[str, str], map_location: Any) -> dict:
    """Load what a list of names has under one: a URL, or a file in mmengine's own folder.

    Raises:
        CheckpointError: If the name is not in the list, or what it stands for cannot be loaded.
    """
    key, mark, digest = name.split('://', 1)[1].partition(MARK)
    if key not in urls:
        raise CheckpointError(
            f'checkpoint {name!r} is unknown to the installed mmengine and torchvision; name a '
            'local file or a URL'
        )
    target = urls[key]
    if '://' not in target:
        target = os.path.join(mmengine_checkpoint._get_mmengine_home(), target)
    return CheckpointLoader.load_checkpoint(target + mark + digest, map_location, logger='silent')


LOADERS: dict[Any, Callable[..., dict]] = {
    '': load_from_local,
    ('http://', 'https://'): load_from_http,
    ('torchvision://', 'modelzoo://'): load_from_torchvision,
    ('open-mmlab://', 'openmmlab://'): load_from_openmmlab,
    'mmcls://': load_from_mmcls,
    ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'): load_from_storage,
}
