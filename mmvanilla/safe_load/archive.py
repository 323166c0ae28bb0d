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
        names = [member.orig_filename for member in members]
        folder = names[0].split('/')[0]
        if any(name.startswith((f'{folder}/code/', f'{folder}/constants.pkl')) for name in names):
            raise CheckpointError('is a TorchScript program, expected weights')
        for member, name in zip(members, names, strict=True):
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise CheckpointError('holds compressed data, which torch.save never writes')
            parts = name.split('/')
            if parts[0] != folder or not {'', '.', '..'}.isdisjoint(parts) or '\\' in name:
                raise CheckpointError(f'holds a file of the name {name!r}')
        if sum(member.file_size for member in members) > size:
            raise CheckpointError(f'declares more data than the {size} bytes of the file')
        if len({name.lower() for name in names}) < len(names):  # torch ignores case
            raise CheckpointError('holds several files of one name')
        if f'{folder}/data.pkl' not in names:
            raise CheckpointError('is an archive without data.pkl, which torch.save writes')
        start = f'{folder}/data/'
        storages = {
            name.removeprefix(start): member.file_size
            for member, name in zip(members, names, strict=True)
            if name.startswith(start)
        }
        return archive.read(f'{folder}/data.pkl'), storages
