"""VanillaNet for OpenMMLab; importing this package registers everything it brings."""

try:
    import mmcv  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != 'mmcv':
        raise
    raise ImportError(
        'mmvanilla needs mmcv 2.1.0: install `mmvanilla[lite]` (mmcv-lite, nothing to compile) '
        'or a compiled mmcv'
    ) from None

from . import mmcv_ops

mmcv_ops.install()  # before anything imports mmcv.ops

from . import data_checks, datasets, engine  # noqa: E402, F401 - registered by import
from .deploy import accelerate  # noqa: E402
from .models import ARCHS, VanillaNet, fuse, safe_loading  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = [
    'ARCHS',
    'VanillaNet',
    '__version__',
    'accelerate',
    'datasets',
    'engine',
    'fuse',
    'safe_loading',
]
