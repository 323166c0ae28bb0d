"""Errors that a user can mend."""


class UserError(ValueError):
    """A mistake in an argument, a config or a file; the tools print it without a traceback."""


class CheckpointError(UserError):
    """A file that cannot be used as a checkpoint."""


class InputError(UserError):
    """An image or a video that cannot be read; others may be."""
