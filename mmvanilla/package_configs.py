"""Find the package's own configs by name, as ``mmdet::...`` finds mmdet's.

mmengine has a fixed list of packages with configs. It also sets the scope of such configs to the
package, and types of mmdet are not found in the scope of a plugin.
"""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .installed import check_library, version

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

MIM = Path(__file__).parent / '.mim'  # folder of configs and tools in OpenMMLab's packages
if not (MIM / 'configs').is_dir():  # a checkout whose links are text files, as git's on Windows
    MIM = Path(__file__).parents[1]
PREFIX = 'mmvanilla::'


def find_config(name: str) -> str:
    """Return the path of a config file or of the package's own config.

    Args:
        name: A path, or a name such as ``'configs/mask_rcnn_vanillanet13.py'``,
            ``'mask_rcnn_vanillanet13'`` or ``'mmvanilla::mask_rcnn_vanillanet13.py'``.

    Raises:
        FileNotFoundError: There is neither.
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
    """Make ``Config.fromfile`` and ``_base_`` accept ``mmvanilla::...``.

    Pure Python configs accept ``from mmvanilla.configs.mask_rcnn_vanillanet13 import *`` within
    ``read_base()``.
    """
    from mmengine.config import Config, ConfigDict, config
    from mmengine.config.utils import MODULE2PACKAGE

    if hasattr(Config.fromfile, '__wrapped__'):
        return
    if version('onedl-mmsegmentation'):  # mmengine only knows OpenMMLab's name
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    # mmengine has no public way to add a package with configs.
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
        # The package's configs have `_base_`, which mmengine's parser of pure Python ignores.
        return ConfigDict(fromfile(filename).to_dict()), set()

    Config.fromfile = staticmethod(own_fromfile)
    Config._get_cfg_path = staticmethod(own_base_path)
    Config._parse_lazy_import = staticmethod(own_parse)
    config.get_installed_path = own_installed_path
