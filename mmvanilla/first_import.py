"""Run a function once OpenMMLab's libraries are imported, without importing them."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LIBRARIES = ('mmengine', 'mmcv')


class AfterFirstImport(MetaPathFinder):
    """Import hook that calls a function after the first import that includes mmengine.

    The import is that of mmengine, of mmcv, or of a module of this package, which may import the
    other two. All of it is complete when the function is called. The hook then removes itself.

    Args:
        function: Called once, without arguments.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.depth = 0  # imports in progress, one within the other

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module with the other finders and follow its import."""
        if name not in LIBRARIES and name.rpartition('.')[0] != __package__:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec and spec.loader:
                follow = partial(self.follow, spec.loader.exec_module)
                spec.loader.exec_module = follow  # type: ignore[method-assign]
                return spec
        return None

    def follow(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Execute a module; call the function if it was the outermost."""
        self.depth += 1
        try:
            execute(module)
        finally:
            self.depth -= 1
        if self.depth == 0 and 'mmengine' in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            self.function()


def after_first_import(function: Callable[[], None]) -> None:
    """Call a function as soon as mmengine is imported, at once if it is."""
    if 'mmengine' in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, AfterFirstImport(function))
