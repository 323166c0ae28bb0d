"""Checkpoints that are named with the SHA-256 hash of their contents: ``FILE#sha256=HASH``."""

import hashlib
import os
import re

from ..errors import CheckpointError

MARK = '#sha256='
CHUNK = 2**20  # bytes


def split_digest(name: str) -> tuple[str, str | None]:
    """Split a path or URL from the hash behind it.

    Returns:
        The path or URL, and the hash in lower case, None if there is none.

    Raises:
        CheckpointError: If the hash is not one.
    """
    file, mark, digest = name.partition(MARK)
    if not mark:
        return name, None
    if not re.fullmatch('[0-9a-fA-F]{64}', digest):
        raise CheckpointError(
            f'{name!r} ends in the hash {digest!r}, expected 64 hexadecimal digits of SHA-256'
        )
    return file, digest.lower()


def check_digest(file: str, digest: str | None, source: str | None = None) -> None:
    """Compare a file's contents with a hash, where one is given.

    Args:
        file: The file.
        digest: 64 hexadecimal digits, in lower case.
        source: How the message names the file, by default by its path.

    Raises:
        CheckpointError: If they differ.
    """
    if digest is None:
        return
    with open(file, 'rb') as opened:
        hashed = hashlib.sha256()
        while chunk := opened.read(CHUNK):
            hashed.update(chunk)
    found = hashed.hexdigest()
    if found != digest:
        raise CheckpointError(
            f'{source or file!r} has the SHA-256 hash {found}, expected {digest}; it is another '
            'file or was changed, so fetch it anew or mend the hash'
        )


def verified(name: str) -> str:
    """Return the path of a local file that may be named with a hash, which is checked.

    Raises:
        CheckpointError: If the hash is not one, or not the file's.
        FileNotFoundError: If there is no such file.
    """
    file, digest = split_digest(os.path.expanduser(name))
    if digest and os.path.isfile(file):
        check_digest(file, digest)
    return file
