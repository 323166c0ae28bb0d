"""Refuse models that override how their library computes results."""

from torch import nn

from ...errors import UserError


def check_methods(module: nn.Module, name: str, base: type, *methods: str) -> None:
    """Check that a module does not override methods of ``base``.

    A subclass that changes only the training passes. ``name`` is the module's name in the model.
    """
    kind = type(module)
    if not isinstance(module, base):
        reason = f'expected a {base.__name__}'
    elif changed := [m for m in methods if getattr(kind, m) is not getattr(base, m)]:
        reason = f'which overrides {changed[0]}(), expected that of {base.__name__}'
    else:
        return
    raise not_whole(f'{name} is a {kind.__name__}, {reason}')


def not_whole(reason: str) -> UserError:
    """Return the error for a model that can export its features only."""
    return UserError(
        f'the model cannot be exported whole: {reason}; export its features (--features)'
    )
