"""Errors that a user can correct, and their messages."""

import traceback


class UserError(ValueError):
    """A mistake in an argument, a config or a file; tools print one sentence."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used."""


class InputError(UserError):
    """An image or video that cannot be read; the run goes on with the others."""


def sentence(error: Exception) -> str:
    """Return the message of an error in one line, without a worker's traceback."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if text.startswith('Caught '):
        # torch puts the traceback before the line `module.Class: message`.
        text = text.rstrip().splitlines()[-1].partition(': ')[2]
    if text:
        return ' '.join(text.split())
    raised = traceback.extract_tb(error.__traceback__)[-1:]  # by an assertion without a text
    where = ''.join(f' at {frame.line!r} of {frame.name} in {frame.filename}' for frame in raised)
    return type(error).__name__ + where


def root_import_error(error: ImportError) -> ImportError:
    """Return the first failed import of a chain; mmengine's messages list all of sys.path."""
    while isinstance(error.__context__, ImportError):
        error = error.__context__
    return error


def require(name: str, value: object, allowed: bool, expected: str) -> None:
    """Raise UserError for a value that is not allowed.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        allowed: Whether the value is allowed.
        expected: Allowed values, for the message.
    """
    if not allowed:
        raise UserError(f'{name} is {value!r}, expected {expected}')
