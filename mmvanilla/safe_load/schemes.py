"""Register the safe loader with mmengine.

``Runner.load_checkpoint``, ``Runner.resume``, ``init_cfg=dict(type='Pretrained', ...)`` and the
loading functions of mmdet, mmseg and mmpretrain all use mmengine's ``CheckpointLoader``, which
chooses a function by the prefix of the name.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, NoReturn

import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.dist import barrier, get_rank
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from .digest import MARK
from .download import fetch
from .loading import load_from_local

Loader = Callable[..., dict]

_lock = RLock()
# By thread: the switch, then the open blocks, whether each wants safe loading.
_requests: defaultdict[int, list[bool]] = defaultdict(lambda: [False])
_replaced: dict[str, Loader | None] = {}  # loaders of others by prefix, while ours are registered


class safe_loading:
    """Run no code in checkpoints, from now on or within a ``with`` block.

    ``safe_loading()`` is a switch for the whole process, ``safe_loading(False)`` switches back.
    ``with safe_loading():`` ends with the block, and so do switches inside it. Blocks can be
    nested. Loading is safe while any thread wants it: no thread ends the protection of another.

    Published formats of VanillaNet are converted to OpenMMLab's names. Storages with clients that
    unpickle (s3://, petrel://, pavi://) are refused. Loaders that others registered come back
    afterwards.

    Args:
        enabled: Whether to load safely.
    """

    def __init__(self, enabled: bool = True) -> None:
        with _lock:
            self.enabled, self.requests = enabled, _requests[get_ident()]
            self.before: bool | None = self.requests[-1]
            self.requests[-1] = enabled
            _register_loaders()

    def __enter__(self) -> None:
        """Open a block; undo the switch of the constructor."""
        with _lock:
            if self.before is not None:
                self.requests[-1], self.before = self.before, None
            _requests[get_ident()].append(self.enabled)
            _register_loaders()

    def __exit__(self, *error: object) -> None:
        """Close the block."""
        with _lock:
            _requests[get_ident()].pop()
            _register_loaders()


def _register_loaders() -> None:
    """Register our loaders with mmengine if a thread wants them, else those of others.

    mmengine has no public way to remove a loader or to list them.
    """
    schemes = CheckpointLoader._schemes
    wanted = any(blocks[-1] for blocks in _requests.values())
    for prefix, ours in LOADERS.items():
        current = schemes.get(prefix)
        if wanted and current is not ours:
            _replaced[prefix] = current
            CheckpointLoader.register_scheme(prefix, ours, force=True)
        elif not wanted and current is ours:
            if other := _replaced[prefix]:
                CheckpointLoader.register_scheme(prefix, other, force=True)
            else:
                del schemes[prefix]


def load_from_http(filename: str, map_location: Any = None) -> dict:
    """Download a checkpoint, in the first process before the others, and load it."""
    file = fetch(filename) if get_rank() == 0 else None
    barrier()
    return load_from_local(file or fetch(filename), map_location)


def load_from_list(filename: str, map_location: Any = None) -> dict:
    """Load weights by mmengine's name for them, such as ``torchvision://resnet50``.

    mmpretrain's classifiers (``mmcls://``) give the weights of their backbone.

    Raises:
        CheckpointError: The name is unknown, or its file cannot be loaded.
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
    """Refuse storages whose files mmengine unpickles."""
    raise CheckpointError(
        f'checkpoint {filename!r} is in a storage that is not read safely; fetch it and name the '
        'local file'
    )


LISTS: dict[str, Callable[[], dict[str, str]]] = {
    **dict.fromkeys(('torchvision', 'modelzoo'), mmengine_checkpoint.get_torchvision_models),
    **dict.fromkeys(('open-mmlab', 'openmmlab'), mmengine_checkpoint.get_external_models),
    'mmcls': mmengine_checkpoint.get_mmcls_models,
}
STORAGES = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')
LOADERS: dict[str, Loader] = {
    '': load_from_local,
    **dict.fromkeys(('http://', 'https://'), load_from_http),
    **dict.fromkeys((f'{scheme}://' for scheme in LISTS), load_from_list),
    **dict.fromkeys(STORAGES, load_from_storage),
}
