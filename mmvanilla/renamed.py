"""Old names, which keep working for one release."""

import warnings
from typing import Any


def deprecate(name: str, instead: str) -> None:
    """Warn the caller's caller of an old name.

    Args:
        name: The old name.
        instead: What to do, such as ``'use VanillaNet'``.
    """
    text = f'{name} goes with the next release; {instead}'
    warnings.warn(text, DeprecationWarning, stacklevel=3)


def old_name(name: str, cls: type) -> Any:
    """Return a subclass of the old name; its instances warn of it.

    It serves in modules and in registries.

    Args:
        name: The old name.
        cls: The class under its new name.
    """

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        deprecate(name, f'use {cls.__name__}')
        cls.__init__(self, *args, **kwargs)  # type: ignore[misc] # of a class, not an instance

    doc = f'The old name of ``{cls.__name__}``, for one release.'
    return type(name, (cls,), dict(__init__=init, __module__=cls.__module__, __doc__=doc))
