"""SHA-256 hashes in the names of checkpoints and exported files: ``FILE#sha256=HASH``."""

import hashlib
import os
import re

from ..errors import CheckpointError

MARK = '#sha256='
CHUNK = 2**20  # bytes
# ONNX stores external data as the pair of strings ('location', FILE), protobuf fields 1 and 2. The
# length of FILE has 7 bits in each byte, the lowest ones first.
LOCATION = re.compile(rb'\n\x08location\x12([\x80-\xff]{0,4}[\x00-\x7f])')


def split_digest(name: str) -> tuple[str, str | None]:
    """Split the hash from a path or URL.

    Returns:
        The path or URL, and the hash in lower case, None if there is none.

    Raises:
        CheckpointError: The hash is malformed.
    """
    file, mark, digest = name.partition(MARK)
    if not mark:
        return name, None
    if not re.fullmatch('[0-9a-fA-F]{64}', digest):
        raise CheckpointError(
            f'{name!r} ends in the hash {digest!r}, expected 64 hexadecimal digits of SHA-256'
        )
    return file, digest.lower()


def hash_file(file: str) -> str:
    """Return the SHA-256 hash of a file and of the weights that it stores in other files.

    For an OpenVINO model it equals ``cat model.xml model.bin | sha256sum``, for an ONNX model with
    external data ``cat model.onnx model.onnx.data | sha256sum``.
    """
    hashed = hashlib.sha256()
    for path in (file, *_weights_of(file)):
        with open(path, 'rb') as opened:
            while chunk := opened.read(CHUNK):
                hashed.update(chunk)
    return hashed.hexdigest()


def _weights_of(file: str) -> list[str]:
    """Return the paths of the files that hold the weights of an exported model."""
    base, suffix = os.path.splitext(file)
    names = [f'{os.path.basename(base)}.bin'] if suffix == '.xml' else []
    if suffix == '.onnx':
        with open(file, 'rb') as opened:
            data = opened.read()
        found = set()
        for match in LOCATION.finditer(data):
            length = sum((byte & 127) << 7 * i for i, byte in enumerate(match[1]))
            found.add(data[match.end() : match.end() + length])
        names = sorted(map(os.fsdecode, found))
    paths = [os.path.join(os.path.dirname(file), name) for name in names]
    return [path for path in paths if os.path.isfile(path)]


def check_digest(file: str, digest: str | None, source: str | None = None) -> None:
    """Compare a file with a hash, if there is one.

    Args:
        file: Path of the file.
        digest: 64 hexadecimal digits in lower case, or None.
        source: Name of the file in the message, by default its path.

    Raises:
        CheckpointError: The file has another hash.
    """
    if digest and (found := hash_file(file)) != digest:
        raise CheckpointError(
            f'{source or file!r} has the SHA-256 hash {found}, expected {digest}; download the '
            'file again or correct the hash'
        )


def verified(name: str) -> str:
    """Return the path of a local file after checking the hash in its name, if any.

    Raises:
        CheckpointError: The hash is malformed or not the file's.
    """
    file, digest = split_digest(os.path.expanduser(name))
    if os.path.isfile(file):
        check_digest(file, digest)
    return file
