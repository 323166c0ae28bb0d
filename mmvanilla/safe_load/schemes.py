"""Every way in which mmengine finds a checkpoint, brought to the safe loader while that is wanted.

``Runner.load_checkpoint``, ``Runner.resume``, ``init_cfg=dict(type='Pretrained', ...)`` and the
loading functions of mmdet, mmseg and mmpretrain all ask mmengine's ``CheckpointLoader``, which
picks a function by the beginning of the name.
"""

import os
import re
from collections.abc import Callable, Mapping
from functools import wraps
from threading import RLock, get_ident
from typing import Any, NoReturn

import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.dist import barrier, get_rank
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from .contents import check_contents
from .digest import MARK
from .download import fetch
from .loading import load_from_local

Loader = Callable[..., dict]

_lock = RLock()
_requests: list[tuple['safe_loading', int, bool]] = []  # with its thread, and whether a block
_others: dict[str, Loader | None] = {}  # the loaders of others that ours stand in for, by prefix


class safe_loading:
    """Load every checkpoint without running anything of it, from now on or within a ``with`` block.

    ``safe_loading()`` is a switch for the whole process, ``safe_loading(False)`` switches back.
    ``with safe_loading():`` holds until the block ends, and what was switched within ends with it;
    blocks may be nested, and threads may hold some at a time: no thread ends the protection of
    another's block. Meanwhile storages whose clients
    unpickle what they fetch (s3://, petrel://, pavi://) are refused. Afterwards mmengine has the
    loaders that it had before, and those that others registered meanwhile.

    Args:
        enabled: Whether to load safely.
        adapt: What is done to each checkpoint that was read, such as renaming its weights; by
            default nothing.
    """

    def __init__(self, enabled: bool = True, adapt: Callable[[dict], dict] | None = None) -> None:
        self.enabled = enabled
        self.adapt = adapt
        with _lock:
            _requests.append((self, get_ident(), False))
            _follow_requests()

    def __enter__(self) -> None:
        """Hold until the end of the block."""
        with _lock:
            switch = (self, get_ident(), False)
            if switch in _requests:
                _requests.remove(switch)  # it was a switch until now
            _requests.append((self, get_ident(), True))
            _follow_requests()

    def __exit__(self, *error: object) -> None:
        """Load as before the block, unless another one, of a thread, still holds."""
        with _lock:
            own = (self, get_ident(), True)
            start = len(_requests) - 1 - _requests[::-1].index(own)
            later = [each for each in _requests[start + 1 :] if each[2] or each[1] != get_ident()]
            _requests[start:] = later
            _follow_requests()


def _holding() -> safe_loading | None:
    """Return the request that holds: of those that are safe, this thread's own before the last one.

    mmengine has one list of loaders, so one thread's safe block protects all threads.
    """
    last = {thread: request for request, thread, _ in _requests}
    blocks = {thread: last[thread] for _, thread, is_block in _requests if is_block}
    newest = _requests[-1][0] if _requests else None
    candidates = [blocks.get(get_ident()), newest, *blocks.values()]
    return next((request for request in candidates if request and request.enabled), newest)


def hand_over(name: str, checkpoint: dict) -> None:
    """Give a checkpoint that was read already to the next who loads one of its name.

    Args:
        name: Its path or URL, as the other will name it.
        checkpoint: What was read.
    """
    pattern = f'{re.escape(name)}$'

    def load_from_memory(filename: str, map_location: Any = None) -> dict:
        _register({pattern: None})
        return checkpoint

    _register({pattern: load_from_memory})


def _follow_requests() -> None:
    """Put our loaders in the place of others', or these back, as the last request says."""
    schemes = CheckpointLoader._schemes
    request = _holding()
    if request and request.enabled:
        found = {prefix: schemes.get(prefix) for prefix in LOADERS}
        _others.update((p, loader) for p, loader in found.items() if loader is not LOADERS[p])
        _register(LOADERS)
    else:
        _register({p: other for p, other in _others.items() if schemes.get(p) is LOADERS[p]})
        _others.clear()


def _register(loaders: Mapping[str, Loader | None]) -> None:
    """Let mmengine load with these, by prefix; None takes one away.

    mmengine has no public way to take one away, nor to ask which there are.
    """
    for prefix, loader in loaders.items():
        if loader:
            CheckpointLoader.register_scheme(prefix, loader, force=True)
        else:
            CheckpointLoader._schemes.pop(prefix, None)


def load_from_http(filename: str, map_location: Any = None) -> dict:
    """Download a checkpoint, the first process before the others, and load it."""
    file = fetch(filename) if get_rank() == 0 else None
    barrier()
    return load_from_local(file or fetch(filename), map_location)


def load_from_list(filename: str, map_location: Any = None) -> dict:
    """Load weights by the name that mmengine has for them, such as ``torchvision://resnet50``.

    Of mmpretrain's classifiers (``mmcls://``) the backbone is loaded.

    Raises:
        CheckpointError: If the name is not in the list, or what it stands for cannot be loaded.
    """
    scheme, _, name = filename.partition('://')
    key, mark, digest = name.partition(MARK)
    if scheme in ('open-mmlab', 'openmmlab'):
        key = mmengine_checkpoint.get_deprecated_model_names().get(key, key)
    target = LISTS[scheme]().get(key)
    if target is None:
        raise CheckpointError(
            f'checkpoint {filename!r} is unknown to the installed mmengine and torchvision; name a '
            'local file or a URL'
        )
    if target.startswith(('http://', 'https://')):
        checkpoint = load_from_http(target + mark + digest, map_location)
    else:
        caches = os.getenv('XDG_CACHE_HOME', '~/.cache')
        folder = os.getenv('MMENGINE_HOME', os.path.join(caches, 'mmengine'))
        checkpoint = load_from_local(os.path.join(folder, target) + mark + digest, map_location)
    if scheme != 'mmcls':
        return checkpoint
    start, weights = 'backbone.', checkpoint.get('state_dict', checkpoint)
    return dict(
        state_dict={k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
    )


def load_from_storage(filename: str, map_location: Any = None) -> NoReturn:
    """Refuse the storages of which mmengine would unpickle what they send."""
    raise CheckpointError(
        f'checkpoint {filename!r} is in a storage that is not read safely; fetch it and name the '
        'local file'
    )


def _adapted(load: Loader) -> Loader:
    """Let what a function loads be adapted as the last request wants it."""

    @wraps(load)  # mmengine logs its name
    def load_adapted(filename: str, map_location: Any = None) -> dict:
        request = _holding()
        adapt = request.adapt if request else None
        checkpoint = load(filename, map_location)
        if adapt is None:
            return checkpoint
        try:
            check_contents(adapted := adapt(checkpoint))
        except CheckpointError as error:
            raise CheckpointError(
                f'checkpoint {filename!r} is refused, since it {error}; nothing of it was run'
            ) from error
        return adapted

    return load_adapted


LISTS: dict[str, Callable[[], dict[str, str]]] = {
    **dict.fromkeys(('torchvision', 'modelzoo'), mmengine_checkpoint.get_torchvision_models),
    **dict.fromkeys(('open-mmlab', 'openmmlab'), mmengine_checkpoint.get_external_models),
    'mmcls': mmengine_checkpoint.get_mmcls_models,
}
STORAGES = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')
LOADERS = {
    '': _adapted(load_from_local),
    **dict.fromkeys(('http://', 'https://'), _adapted(load_from_http)),
    **dict.fromkeys((f'{scheme}://' for scheme in LISTS), _adapted(load_from_list)),
    **dict.fromkeys(STORAGES, _adapted(load_from_storage)),
}
