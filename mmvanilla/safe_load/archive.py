"""Check the container of a checkpoint before it is unpickled."""

import io
import os
import zipfile
from typing import BinaryIO

import torch

from ..errors import CheckpointError
from .pickle_code import check_program

ZIP = b'PK\3\4'
# First pickle of torch.save's format before zip archives: a magic number.
LEGACY = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
LEGACY_PICKLES = 5  # magic number, version, description of the machine, contents, storage keys


def check_archive(filename: str) -> None:
    """Check a file in one of torch's formats.

    torch.save does not compress, so an archive that declares more data than its size is a bomb.

    Raises:
        CheckpointError: The file is refused; the message says why, in the third person.
        Exception: Others, if the file is corrupt.
    """
    size = os.path.getsize(filename)
    with open(filename, 'rb') as file:
        start = file.read(len(LEGACY))
        file.seek(0)
        if start.startswith(ZIP):
            program, storages = _read_program(file, size)
            # torch has no public reader of archives that does not unpickle.
            if torch._C.PyTorchFileReader(filename).get_record('data.pkl') != program:
                raise CheckpointError('is an archive that can be read in two ways')
            check_program(io.BytesIO(program), size, storages)
        elif start == LEGACY:
            for _ in range(LEGACY_PICKLES):
                check_program(file, size)
        else:
            raise ValueError('neither of the formats that torch.save writes')


def _read_program(file: BinaryIO, size: int) -> tuple[bytes, dict[str, int]]:
    """Check the members of a zip archive; return data.pkl, and the sizes of the storages."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        sizes = {member.orig_filename: member.file_size for member in members}
        folder = members[0].orig_filename.split('/')[0]
        if any(name.startswith((f'{folder}/code/', f'{folder}/constants.pkl')) for name in sizes):
            raise CheckpointError('is a TorchScript program, expected weights')
        if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
            raise CheckpointError('holds compressed data, which torch.save never writes')
        for name in sizes:
            parts = name.split('/')
            if parts[0] != folder or not {'', '.', '..'}.isdisjoint(parts) or '\\' in name:
                raise CheckpointError(f'holds a file of the name {name!r}')
        if len({name.lower() for name in sizes}) < len(members):  # torch ignores case
            raise CheckpointError('holds several files of one name')
        if sum(sizes.values()) > size:
            raise CheckpointError(f'declares more data than the {size} bytes of the file')
        if f'{folder}/data.pkl' not in sizes:
            raise CheckpointError('is an archive without data.pkl, which torch.save writes')
        start = f'{folder}/data/'
        storages = {n.removeprefix(start): sizes[n] for n in sizes if n.startswith(start)}
        return archive.read(f'{folder}/data.pkl'), storages
