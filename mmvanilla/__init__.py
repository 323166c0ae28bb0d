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

from .datasets import make_shapes  # noqa: E402
from .deploy import accelerate  # noqa: E402
from .engine import preflight  # noqa: E402
from .errors import UserError  # noqa: E402
from .models import ARCHS, VanillaNet, fuse, safe_loading  # noqa: E402

__version__ = '0.1.0'

__all__ = [
    'ARCHS',
    'UserError',
    'VanillaNet',
    '__version__',
    'accelerate',
    'fuse',
    'make_shapes',
    'preflight',
    'safe_loading',
]
