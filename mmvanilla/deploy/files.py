"""Writing files so that nothing half-written ever stands under their name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UserError


@contextmanager
def writing(file: str) -> Iterator[str]:
    """Yield a path of the same name in a scratch folder beside; at the end move what is there.

    Files that belong to it, such as the weights beside a graph, are moved along. If an error is
    raised within, nothing is.

    Args:
        file: Where to write; missing folders are made.

    Raises:
        UserError: If its folder cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(file))
    try:
        os.makedirs(folder, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix='.writing-', dir=folder)
    except OSError as error:
        raise UserError(
            f'{file!r} cannot be written ({error.strerror or error}); name another folder'
        ) from error
    with scratch:
        yield os.path.join(scratch.name, name)
        for written in sorted(os.listdir(scratch.name)):
            os.replace(os.path.join(scratch.name, written), os.path.join(folder, written))
