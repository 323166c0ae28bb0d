"""Files that are never half written, and folders that one process uses."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from .errors import UserError

# Errors of network shares, FUSE and WSL, which cannot flush.
UNSUPPORTED = {
    *(errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),  # a folder that may not be opened
}


def replace_file(file: str, content: bytes) -> None:
    """Write a file so that the old or the new one is whole, also after a power cut.

    Missing folders are made.

    Raises:
        OSError: If it cannot be written; the old file stays, and nothing else.
    """
    folder, name = os.path.split(os.path.abspath(file))
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f'.{name}.partial')
    try:
        with open(partial, 'wb') as stream:
            stream.write(content)
        flush(partial)
        os.replace(partial, os.path.join(folder, name))
    except OSError as error:
        with suppress(OSError):
            os.remove(partial)
        raise OSError(error.errno, error.strerror, file) from error
    flush(folder)  # the new name is in the folder, which is a file as well


@contextmanager
def writing(file: str) -> Iterator[str]:
    """Yield a path of the same name in a scratch folder; at the end move its files in place.

    All files in the scratch folder are moved, such as a graph and its weights. An error inside the
    ``with`` statement leaves existing files unchanged. Nothing is flushed to the disk.

    Args:
        file: The file to write; missing folders are made.

    Raises:
        UserError: If the folder cannot be written.
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


def flush(path: str) -> None:
    """Flush a file or folder to the disk, where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def lock(folder: str) -> IO | None:
    """Lock a folder for this process until the returned file is closed or the process ends.

    Processes that are forked do not hold it. None where the file system has no locks.

    Raises:
        UserError: If another process holds it.
    """
    try:
        import fcntl  # which Windows has not

        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, '.lock'), 'w')  # noqa: SIM115
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f'work_dir {folder!r} is in use by another training; wait for its end, or name another '
            'with --work-dir'
        ) from error
    except (ImportError, OSError):
        return None
    return file
