"""The package's own configs by name, as ``mmdet::...`` names those of mmdet.

mmengine knows the packages whose configs it finds by a list of its own, and gives what it finds
there the package's scope, under which a plugin's config would not find mmdet's types.
"""

import os
from functools import wraps
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, config
from mmengine.config.utils import MODULE2PACKAGE

from .installed import check_library, version

MIM = Path(__file__).parent / '.mim'  # where OpenMMLab's packages keep configs and tools
PREFIX = 'mmvanilla::'


def find_config(name: str) -> str:
    """Return the path of a config file, or of the package's own config of that name.

    Args:
        name: A path, or such as ``'configs/mask_rcnn_vanillanet13.py'``,
            ``'mask_rcnn_vanillanet13'`` or ``'mmvanilla::mask_rcnn_vanillanet13.py'``.

    Raises:
        FileNotFoundError: If there is neither.
    """
    if os.path.isfile(name):
        return name
    own = Path(name.removeprefix(PREFIX).removeprefix('configs/')).with_suffix('.py')
    file = MIM / 'configs' / own
    if file.is_file():
        return str(file)
    raise FileNotFoundError(
        f'there is no config file {name!r} in {os.getcwd()!r}, nor one of the package named '
        f'{str(own)!r}; check the path'
    )


def install() -> None:
    """Let ``Config.fromfile`` and ``_base_`` take ``mmvanilla::...``.

    Configs in pure Python take ``from mmvanilla.configs.mask_rcnn_vanillanet13 import *`` within
    ``read_base()``.
    """
    if hasattr(Config.fromfile, '__wrapped__'):
        return
    if version('onedl-mmsegmentation'):  # mmengine asks for it by OpenMMLab's name
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    # There is no public way into how a base is found and read.
    fromfile, base_path, parse = Config.fromfile, Config._get_cfg_path, Config._parse_lazy_import
    installed_path = config.get_installed_path

    @wraps(fromfile)
    def own_fromfile(filename: str | Path, *args: Any, **kwargs: Any) -> Config:
        name = str(filename)
        return fromfile(find_config(name) if name.startswith(PREFIX) else filename, *args, **kwargs)

    @wraps(base_path)
    def own_base_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return find_config(cfg_path), None
        check_library(cfg_path.partition('::')[0])
        return base_path(cfg_path, filename)

    @wraps(installed_path)
    def own_installed_path(package: str) -> str:
        return str(MIM) if package == 'mmvanilla' else installed_path(package)

    @wraps(parse)
    def own_parse(filename: str) -> tuple[ConfigDict, set[str]]:
        if not Path(filename).is_relative_to(MIM):
            return parse(filename)
        # The package's configs are text with `_base_`, which mmengine's parser leaves alone.
        return ConfigDict(fromfile(filename).to_dict()), set()

    Config.fromfile = staticmethod(own_fromfile)
    Config._get_cfg_path = staticmethod(own_base_path)
    Config._parse_lazy_import = staticmethod(own_parse)
    config.get_installed_path = own_installed_path
