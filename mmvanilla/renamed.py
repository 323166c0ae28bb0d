"""Old names of classes, which keep working for one release."""

import warnings
from typing import Any


def old_name(name: str, cls: type) -> Any:
    """Return a subclass of the old name; its instances warn of it.

    It serves in modules and in registries, where the old name is in users' code and configs. The
    warning names the caller's line in code; configs are built by mmengine.

    Args:
        name: The old name.
        cls: The class under its new name.
    """

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f'{name} is the old name of {cls.__name__} and goes with the next release; use '
            f'{cls.__name__}',
            DeprecationWarning,
            stacklevel=2,
        )
        cls.__init__(self, *args, **kwargs)  # type: ignore[misc] # of a class, not an instance

    doc = f'The old name of ``{cls.__name__}``, for one release.'
    return type(name, (cls,), dict(__init__=init, __module__=cls.__module__, __doc__=doc))
