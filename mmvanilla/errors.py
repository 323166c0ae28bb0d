"""Errors that a user can mend, and what they say."""

import traceback


class UserError(ValueError):
    """A mistake in an argument, a config or a file; the tools print it without a traceback."""


class CheckpointError(UserError):
    """A file that cannot be used as a checkpoint."""


class InputError(UserError):
    """An image or a video that cannot be read; others may be."""


def sentence(error: Exception) -> str:
    """Return what an error says in one line, without the traceback that comes from a worker."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if text.startswith('Caught '):
        # torch puts a worker's traceback before the line that says `module.Class: sentence`.
        text = text.rstrip().splitlines()[-1].partition(': ')[2]
    if text:
        return ' '.join(text.split())
    raised = traceback.extract_tb(error.__traceback__)[-1:]  # by an assertion without a text
    where = ''.join(f' at {frame.line!r} of {frame.name} in {frame.filename}' for frame in raised)
    return type(error).__name__ + where


def root_import_error(error: ImportError) -> ImportError:
    """Return the failed import that others were raised for; mmengine's own list all of sys.path."""
    while isinstance(error.__context__, ImportError):
        error = error.__context__
    return error


def require(name: str, value: object, allowed: bool, expected: str) -> None:
    """Refuse the value of an argument.

    Args:
        name: The argument's name.
        value: What was given.
        allowed: Whether it may be that.
        expected: What it may be, for the message.

    Raises:
        UserError: If it is not allowed.
    """
    if not allowed:
        raise UserError(f'{name} is {value!r}, expected {expected}')
