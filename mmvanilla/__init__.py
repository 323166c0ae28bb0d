"""VanillaNet for OpenMMLab: importing this package registers the backbone, its head and hooks.

They are registered as soon as mmengine is imported, so that a command line can read its arguments
before the libraries are imported, which takes seconds.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .installed import check_installed

check_installed()

from . import mmcv_ops  # noqa: E402
from .first_import import after_first_import  # noqa: E402

if TYPE_CHECKING:
    from .datasets import make_shapes
    from .deploy import accelerate
    from .engine import preflight
    from .models import (
        ARCHS,
        SeriesActivation,
        VanillaNet,
        fuse,
        safe_loading,
    )

__version__ = '0.2.0'

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
_PACKAGES = dict(make_shapes='datasets', accelerate='deploy', preflight='engine')  # else models


def __getattr__(name: str) -> Any:
    """Import what is asked for: a public name or a module of the package."""
    if name in __all__:
        return getattr(import_module(f'.{_PACKAGES.get(name, "models")}', __name__), name)
    if not name.startswith('_') and find_spec(f'{__name__}.{name}'):
        return import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _register() -> None:
    """Register everything with mmengine, and let it find the package's configs."""
    import_module('.package_configs', __name__).install()
    for package in ('models', 'distill', 'engine', 'deploy'):
        import_module(f'.{package}', __name__)


mmcv_ops.install()
after_first_import(_register)
