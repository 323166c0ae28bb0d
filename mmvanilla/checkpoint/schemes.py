"""Every way in which mmengine finds a checkpoint, brought to the safe loader.

``Runner.load_checkpoint``, ``Runner.resume``, ``init_cfg=dict(type='Pretrained', ...)`` and the
loading functions of mmdet, mmseg and mmpretrain all ask mmengine's ``CheckpointLoader``, which
picks a function by the beginning of the name. Importing this module replaces those functions.
"""

import os
from typing import Any, NoReturn

import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from .digest import MARK
from .loading import load_from_local, load_url

CheckpointLoader.register_scheme('', load_from_local, force=True)
# mmengine's own function for http:// and https:// lets the first process download before the others
# and then calls this.
mmengine_checkpoint.load_url = load_url


@CheckpointLoader.register_scheme(('torchvision://', 'modelzoo://'), force=True)
def load_from_torchvision(filename: str, map_location: Any = None) -> dict:
    """Load weights by torchvision's name of them, such as ``torchvision://resnet50``."""
    return _load_named(filename, mmengine_checkpoint.get_torchvision_models(), map_location)


@CheckpointLoader.register_scheme(('open-mmlab://', 'openmmlab://'), force=True)
def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    """Load weights by OpenMMLab's name of them."""
    urls = mmengine_checkpoint.get_external_models()
    renamed = mmengine_checkpoint.get_deprecated_model_names()
    aliases = {old: urls[new] for old, new in renamed.items() if new in urls}
    return _load_named(filename, {**urls, **aliases}, map_location)


@CheckpointLoader.register_scheme('mmcls://', force=True)
def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    """Load a backbone by mmpretrain's name of its classifier."""
    checkpoint = _load_named(filename, mmengine_checkpoint.get_mmcls_models(), map_location)
    weights = checkpoint.get('state_dict', checkpoint)
    start = 'backbone.'
    return dict(
        state_dict={k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
    )


@CheckpointLoader.register_scheme(('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_storage(filename: str, map_location: Any = None) -> NoReturn:
    """Refuse the storages of which mmengine would unpickle what they send."""
    raise CheckpointError(
        f'checkpoint {filename!r} is in a storage that is not read here; fetch it and name the '
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
