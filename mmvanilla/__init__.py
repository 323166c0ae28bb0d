"""VanillaNet for OpenMMLab; importing this package registers everything it brings."""

from .installed import check_installed

check_installed()

from . import mmcv_ops, package_configs  # noqa: E402

package_configs.install()
mmcv_ops.install()  # before anything imports mmcv.ops

from .datasets import make_shapes  # noqa: E402
from .deploy import accelerate  # noqa: E402
from .engine import preflight  # noqa: E402
from .errors import UserError  # noqa: E402
from .models import (  # noqa: E402
    ARCHS,
    SeriesActivation,
    VanillaNet,
    fuse,
    safe_loading,
)

__version__ = '0.1.0'

__all__ = [
    'ARCHS',
    'SeriesActivation',
    'UserError',
    'VanillaNet',
    '__version__',
    'accelerate',
    'fuse',
    'make_shapes',
    'preflight',
    'safe_loading',
]
