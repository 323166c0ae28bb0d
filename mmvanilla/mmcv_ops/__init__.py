"""The operators of ``mmcv.ops`` for an mmcv without its compiled extension."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ['install']


class ExtensionFinder(MetaPathFinder, Loader):
    """Import hook that gives ``mmvanilla.mmcv_ops.ext`` to whoever imports ``mmcv._ext``."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find ``mmcv._ext`` if no other finder has found it."""
        return ModuleSpec(name, self) if name == 'mmcv._ext' else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the operators, also in data-loading workers that are spawned."""
        import_module('.workers', __name__).register()
        return import_module('.ext', __name__)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing, since the module was imported under its own name."""


def install() -> None:
    """Let mmcv import the operators in place of a compiled module, unless it has one.

    Nothing is imported yet. A second call changes nothing.
    """
    if not any(isinstance(finder, ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.append(ExtensionFinder())
