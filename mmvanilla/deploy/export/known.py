"""Telling models whose results are known from those that compute something else."""

from mmengine.model import BaseModel
from torch import nn

from ...errors import UserError


def check_methods(part: nn.Module, name: str, base: type, *methods: str) -> None:
    """Refuse a part of a model unless a class's own methods compute its results.

    Subclasses that change the training only are known by that, others are not.

    Args:
        part: The part.
        name: Its name in the model, for the message.
        base: The class.
        *methods: The methods.

    Raises:
        UserError: If it is of another class or has such a method of its own.
    """
    kind = type(part)
    if not isinstance(part, base):
        reason = f'expected a {base.__name__}'
    elif changed := [m for m in methods if getattr(kind, m) is not getattr(base, m)]:
        reason = f'which has a {changed[0]}() of its own, expected that of {base.__name__}'
    else:
        return
    raise not_whole(f'{name} is a {kind.__name__}, {reason}')


def not_whole(reason: str) -> UserError:
    """Return the error of a model of which only the features can be exported."""
    return UserError(
        f'the model cannot be exported whole: {reason}; export its features (--features)'
    )


def libraries(model: BaseModel) -> set[str]:
    """Return the names of the packages that a model's classes come from."""
    return {kind.__module__.partition('.')[0] for kind in type(model).__mro__}
