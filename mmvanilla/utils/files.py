"""Writing files so that nothing half-written ever stands under their name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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


def replace_file(file: str, content: bytes) -> None:
    """Write a file so that at any moment, also of a power cut, the old or the new one is whole.

    Args:
        file: Where to write; missing folders are made.
        content: All of it.

    Raises:
        OSError: If it cannot be written; the old file stays, and nothing else.
    """
    folder, name = os.path.split(os.path.abspath(file))
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f'.{name}.partial')
    try:
        with open(partial, 'wb') as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, os.path.join(folder, name))
    except OSError as error:
        with suppress(OSError):
            os.remove(partial)
        raise OSError(error.errno, error.strerror, file) from error
    # The new name is in the folder, which is a file as well.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
