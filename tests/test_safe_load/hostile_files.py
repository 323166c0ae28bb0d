"""Makers of hostile and broken checkpoint files. None may run or write, each gets its true cause.

Each takes a path and that of a canary, a folder that appears if anything of the file is run.
"""

import importlib
import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.logging import HistoryBuffer
from torch import nn

LEGACY = dict(_use_new_zipfile_serialization=False)
WEIGHTS = OrderedDict(w=torch.rand(1000))


class Call:
    """An object whose unpickling calls a function; the state, if any, goes to the result."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


class Attributes(dict):
    """Pickled, an OrderedDict with attributes of one's own."""

    def __reduce__(self):
        return OrderedDict, ([],), self['attributes'], None, iter([('w', torch.rand(3))])


def saved(content, **options):
    """Return the maker of a file that torch.save writes."""

    def make(path, canary):
        torch.save(content(str(canary)), path, **options)

    return make


def gadget(function, *args):
    """Return the maker of a checkpoint with a call for weights; '{canary}' is filled in."""

    def fill(value, canary):
        return value.replace('{canary}', canary) if isinstance(value, str) else value

    return saved(
        lambda canary: dict(state_dict=Call(function, *(fill(arg, canary) for arg in args)))
    )


def members(path, **options):
    """Write a checkpoint and return its members by name."""
    torch.save(dict(state_dict=WEIGHTS, **options), path)
    with zipfile.ZipFile(path) as archive:
        return {info.filename.split('/', 1)[1]: archive.read(info) for info in archive.infolist()}


def archive(change, compression=zipfile.ZIP_STORED):
    """Return the maker of a zip archive after a change of its (name, bytes) pairs."""

    def make(path, canary):
        pairs = change(list(members(path).items()))
        with zipfile.ZipFile(path, 'w', compression) as file:
            for name, data in pairs:
                file.writestr(name if name.startswith(('/', '..')) else f'a/{name}', data)

    return make


def program(*parts):
    """Return the maker of a zip archive with a pickle program of one's own."""
    data = b'\x80\x02' + b''.join(parts) + b'.'
    return archive(lambda pairs: [('data.pkl', data), *pairs[1:]])


def data_of(change):
    """Return the maker of a file after a change of its bytes."""

    def make(path, canary):
        torch.save(dict(state_dict=WEIGHTS), path)
        path.write_bytes(change(path.read_bytes()))

    return make


def text(value):
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def name(module, attribute):
    return f'c{module}\n{attribute}\n'.encode()


def as_weights(*value):
    """A program of {'state_dict': {'w': value}}."""
    return program(b'}', text('state_dict'), b'}', text('w'), *value, b's', b's')


def doubled(times, opcode=b'\x86'):
    """A program part that pairs a value with itself, again and again."""
    return b'N' + b''.join(b'q\x01h\x01' + opcode for _ in range(times))


def beside(path, canary):
    """A pickle inside an archive inside a checkpoint's data: data to torch, never opened."""
    inner = io.BytesIO()
    torch.save(Call(os.mkdir, str(canary)), inner)
    pairs = list(members(path).items())
    with zipfile.ZipFile(path, 'w') as file:
        for member, data in pairs:
            file.writestr(f'a/{member}', inner.getvalue() if member == 'data.pkl' else data)


def script(path, canary):
    module = torch.jit.trace(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 2, 2))
    torch.jit.save(module, str(path))


def tar(path, canary):
    with tarfile.open(path, 'w') as file:
        for member in ('../../escape', 'storages', 'pickle'):
            info = tarfile.TarInfo(member)
            content = pickle.dumps(Call(os.mkdir, str(canary)), 2)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def tar_that_begins_as_legacy(path, canary):
    tar(path, canary)
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    path.write_bytes(start + path.read_bytes()[len(start) :])


def legacy_with_a_gadget(path, canary):
    torch.save(dict(state_dict=Call(os.system, f'mkdir {canary}')), path, **LEGACY)


def legacy_in_its_keys(path, canary):
    """The last of the five pickles is the hostile one."""
    torch.save(dict(state_dict={}), path, **LEGACY)
    keys = pickle.dumps([], 2)
    data = path.read_bytes()
    assert data.count(keys) == 1
    path.write_bytes(data.replace(keys, pickle.dumps(Call(os.mkdir, str(canary)), 2)))


def legacy_with_a_huge_tensor(path, canary):
    torch.save(dict(state_dict=WEIGHTS), path, **LEGACY)
    path.write_bytes(path.read_bytes().replace(b'M\xe8\x03', b'J\xff\xff\xff\x7f'))


def two_directories(path, canary):
    """Append an archive to an archive: readers may find the one or the other."""
    members(path)
    data = path.read_bytes()
    other = path.with_suffix('.other')
    torch.save(dict(state_dict=Call(os.mkdir, str(canary))), other)
    path.write_bytes(data + other.read_bytes())
    other.unlink()


def overlapping(path, canary):
    """Two directory entries of one stored member, as zip bombs have them by the thousand."""
    members(path)
    with zipfile.ZipFile(path, 'a') as file:
        (large,) = (info for info in file.infolist() if info.filename.endswith('data/0'))
        for number in range(9):
            twin = zipfile.ZipInfo(f'{large.filename}{number}')
            for field in ('header_offset', 'CRC', 'compress_size', 'file_size'):
                setattr(twin, field, getattr(large, field))
            file.filelist.append(twin)
        file._didModify = True


def safetensors(header, data=bytes(16), length=None):
    """Return the maker of a safetensors file with a header of one's own."""

    def make(path, canary):
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(raw) if length is None else length
        path.with_suffix('.safetensors').write_bytes(struct.pack('<Q', size) + raw + data)

    return make


def tensor(shape=(4,), offsets=(0, 16), dtype='F32'):
    return dict(dtype=dtype, shape=list(shape), data_offsets=list(offsets))


def numpy_state(state):
    """An array that is given a forged state."""
    multiarray = getattr(np._core, 'multiarray', None) or np.core.multiarray  # before numpy 2
    return Call(multiarray._reconstruct, np.ndarray, (0,), b'b', state=state)


MANY = 'holds more than weights'
HOSTILE = {
    # calls
    'os.system': (gadget(os.system, 'mkdir {canary}'), rf'{MANY} \(posix.system\)'),
    'os.mkdir': (gadget(os.mkdir, '{canary}'), rf'{MANY} \(posix.mkdir\)'),
    'subprocess': (
        gadget(subprocess.Popen, 'mkdir {canary}', -1, None, None, None, None, None, True, True),
        rf'{MANY} \(subprocess.Popen\)',
    ),
    'eval': (gadget(eval, "__import__('os').mkdir('{canary}')"), rf'{MANY} \(builtins.eval\)'),
    'exec': (gadget(exec, "import os; os.mkdir('{canary}')"), rf'{MANY} \(builtins.exec\)'),
    'import_module': (
        gadget(importlib.import_module, 'antigravity'),
        rf'{MANY} \(importlib.import_mod',
    ),
    'open': (gadget(io.open, '{canary}', 'w'), rf'{MANY} \(_?io.open\)'),
    'torch.load': (
        gadget(torch.load, 'other.pth', None, None),
        rf'{MANY} \(torch.serialization.load',
    ),
    'torch.hub.load': (gadget(torch.hub.load, 'a/b', 'c'), rf'{MANY} \(torch.hub.load\)'),
    'bytearray': (gadget(bytearray, 2**40), rf'{MANY} \(builtins.bytearray\)'),
    'a function of mmengine': (gadget(get_rank), rf'{MANY} \(mmengine.dist.utils.get_rank\)'),
    'legacy format': (legacy_with_a_gadget, rf'{MANY} \(posix.system\)'),
    'legacy keys': (legacy_in_its_keys, rf'{MANY} \(posix.mkdir\)'),
    'stack global': (
        as_weights(text('os'), text('system'), b'\x93'),
        'the instruction STACK_GLOBAL',
    ),
    'inst': (as_weights(b'(', text('mkdir canary'), b'ios\nsystem\n'), 'the instruction INST'),
    'extension': (as_weights(b'\x82\x01'), 'the instruction EXT1'),
    # getattr and states
    'getattr of dict': (gadget(getattr, dict, 'fromkeys'), rf'{MANY} \(builtins.dict\)'),
    'getattr of a class': (
        gadget(getattr, HistoryBuffer, '__init__'),
        rf'{MANY} \(builtins.getattr\)',
    ),
    'getattr to globals': (
        gadget(getattr, Call(getattr, HistoryBuffer, 'min'), '__globals__'),
        rf'{MANY} \(builtins.getattr\)',
    ),
    'getattr to a call': (
        as_weights(
            name('__builtin__', 'getattr'),
            name('mmengine.logging.history_buffer', 'HistoryBuffer'),
            text('__init__'),
            b'\x86R',
            b')R',
        ),
        'calls what it made itself',
    ),
    'methods of a history': (
        saved(
            lambda canary: dict(
                state_dict=WEIGHTS,
                x=Call(HistoryBuffer, state=dict(mean=1, _statistics_methods=dict(mean=2))),
            )
        ),
        'holds a forged History',
    ),
    'attributes of a state dict': (
        saved(lambda canary: dict(state_dict=Attributes(attributes=dict(copy=HistoryBuffer)))),
        'holds a forged state dict',
    ),
    'versions of a state dict': (
        saved(
            lambda canary: dict(
                state_dict=Attributes(attributes=dict(_metadata={'': dict(version='9')}))
            )
        ),
        'holds a forged state dict',
    ),
    'attributes of a parameter': (
        saved(
            lambda canary: dict(
                state_dict=dict(
                    w=Call(
                        torch._utils._rebuild_parameter_with_state,
                        torch.rand(2),
                        True,
                        OrderedDict(),
                        dict(data=1),
                    )
                )
            )
        ),
        rf'{MANY} \(torch._utils._rebuild_parameter_with_state\)',
    ),
    'any tensor type': (
        gadget(torch._tensor._rebuild_from_type_v2, HistoryBuffer, HistoryBuffer, (), {}),
        rf'{MANY} \(torch._tensor._rebuild_from_type_v2\)',
    ),
    'a class': (
        saved(lambda canary: dict(state_dict=WEIGHTS, x=HistoryBuffer)),
        rf'{MANY} \(History\)',
    ),
    'state of a class': (
        as_weights(
            name('collections', 'Counter'),
            *(b'N}', text('update'), name('collections', 'OrderedDict'), b's\x86b'),
        ),
        'changes collections.Counter',
    ),
    'codec': (
        as_weights(name('_codecs', 'encode'), text('x'), text('zip'), b'\x86R'),
        rf"{MANY} \(the codec 'zip'\)",
    ),
    'forged arguments': (
        saved(lambda canary: dict(state_dict=WEIGHTS, args=Namespace(call=Call(os.mkdir, canary)))),
        rf'{MANY} \(posix.mkdir\)',
    ),
    # numpy
    'array of objects': (
        saved(lambda canary: dict(state_dict=WEIGHTS, x=np.array([1, None], dtype=object))),
        'holds a forged (DType|Array)',
    ),
    'array of addresses': (
        # numpy makes an array of objects from these bytes; reading it crashes Python.
        saved(
            lambda canary: dict(
                state_dict=WEIGHTS, x=Call(np.ndarray, (1,), np.dtype('O'), b'A' * 8)
            )
        ),
        'holds a forged Array',
    ),
    'forged dtype': (
        saved(
            lambda canary: dict(
                state_dict=WEIGHTS,
                x=numpy_state(
                    (
                        1,
                        (1,),
                        Call(
                            np.dtype,
                            'V8',
                            state=(3, '|', None, ('f',), {'f': (np.dtype('O'), 0)}, 8, 1, 0),
                        ),
                        False,
                        b'A' * 8,
                    )
                ),
            )
        ),
        'holds a forged DType',
    ),
    'huge array': (
        saved(
            lambda canary: dict(
                state_dict=WEIGHTS,
                x=numpy_state((1, (2**50, 2**50), np.dtype('f8'), False, b'A' * 8)),
            )
        ),
        'holds a forged Array',
    ),
    'huge new array': (
        saved(lambda canary: dict(state_dict=WEIGHTS, x=Call(np.ndarray, (2**34,)))),
        'holds a forged Array',
    ),
    # sizes
    'pairs of pairs': (program(doubled(60)), 'builds more than 1,000,000 values'),
    'pairs as a name': (program(b'}', doubled(60), b'Ns'), 'builds more than 1,000,000 values'),
    'nested lists': (
        program(b'}', text('a'), b']' * 300, b'a' * 299, b's'),
        'nests values more than 100 deep',
    ),
    'list in itself': (program(b'}', text('a'), b']q\x01h\x01a', b's'), 'more than 100 deep'),
    'huge tensor': (
        archive(
            lambda pairs: [(n, d.replace(b'M\xe8\x03tq', b'J\xff\xff\xff\x7ftq')) for n, d in pairs]
        ),
        'declares a tensor of 2147483647 numbers',
    ),
    'tensor beyond the end of its data': (
        archive(
            lambda pairs: [
                *((n, d.replace(b'M\xe8\x03tq', b'M\xd0\x07tq')) for n, d in pairs),
                ('data/9', bytes(50_000)),
            ]
        ),
        'declares a tensor of 2000 numbers in 4000 bytes',
    ),
    'huge legacy tensor': (legacy_with_a_huge_tensor, 'declares a tensor of 2147483647 numbers'),
    'tensor of strides 0': (
        saved(lambda canary: dict(state_dict=dict(w=torch.zeros(1).expand(10**6, 10**6)))),
        r'declares a tensor of \(1000000, 1000000\), but holds less',
    ),
    'zip bomb': (
        archive(lambda pairs: [*pairs, ('data/9', bytes(50_000_000))], zipfile.ZIP_DEFLATED),
        'holds compressed data',
    ),
    'overlapping members': (overlapping, 'declares more data than'),
    # archives
    'path traversal': (
        archive(lambda pairs: [*pairs, ('../../canary', b'')]),
        "a file of the name '../../canary'",
    ),
    'inner path traversal': (
        archive(lambda pairs: [*pairs, ('data/../../canary', b'')]),
        "a file of the name 'a/data/../",
    ),
    'absolute path': (
        archive(lambda pairs: [*pairs, ('/canary', b'')]),
        "a file of the name '/can",
    ),
    'member twice': (
        archive(lambda pairs: [*pairs, ('data.pkl', pickle.dumps(Call(os.mkdir, 'canary'), 2))]),
        'several files of one name',
    ),
    'member in capitals': (
        archive(lambda pairs: [('DATA.PKL', pickle.dumps(Call(os.mkdir, 'canary'), 2)), *pairs]),
        'several files of one name',
    ),
    'archive in an archive': (
        beside,
        'not a checkpoint|truncated or corrupt|holds the instruction',
    ),
    'two archives': (two_directories, rf'{MANY}|in two ways|truncated or corrupt'),
    'TorchScript': (script, 'is a TorchScript program, expected weights'),
    'other archive': (archive(lambda pairs: [('readme.txt', b'hello')]), 'without data.pkl'),
    'tar': (tar, 'is not a checkpoint that torch.save wrote'),
    'tar and legacy': (
        tar_that_begins_as_legacy,
        'is not a checkpoint that torch.save wrote|holds the',
    ),
    # broken files
    'half': (data_of(lambda data: data[: len(data) // 2]), 'truncated or corrupt'),
    'without its end': (data_of(lambda data: data[:-30]), 'truncated or corrupt'),
    'zeros within': (
        data_of(lambda data: data[:40] + bytes(200) + data[240:]),
        'truncated or corrupt',
    ),
    'half legacy': (
        lambda path, canary: (
            torch.save(dict(state_dict=WEIGHTS), path, **LEGACY),
            path.write_bytes(path.read_bytes()[:2000]),
        ),
        'declares a tensor of 1000 numbers .* truncated',
    ),
    'empty': (data_of(lambda data: b''), 'is an empty file'),
    'noise': (data_of(lambda data: os.urandom(5000)), 'is not a checkpoint'),
    'text': (data_of(lambda data: b'<html>not found</html>'), 'is not a checkpoint'),
    'plain pickle': (
        lambda path, canary: path.write_bytes(pickle.dumps(Call(os.mkdir, str(canary)))),
        'is not a checkpoint',
    ),
    # contents
    'list': (saved(lambda canary: [1, 2]), 'holds a list, expected a dict'),
    'number': (saved(lambda canary: 7), 'holds a int, expected a dict'),
    'no weights': (saved(lambda canary: dict(meta={})), 'holds no weights'),
    'names that are numbers': (
        saved(lambda canary: dict(state_dict={1: torch.rand(2)})),
        'a int for a name in state_dict',
    ),
    'published names that are numbers': (
        saved(lambda canary: dict(model={'stem.w': torch.rand(2), 1: torch.rand(2)})),
        'a int for a name in model',
    ),
    'top names that are numbers': (
        saved(lambda canary: {1: torch.rand(2)}),
        'a int for a name in the checkpoint',
    ),
    'weights that are texts': (
        saved(lambda canary: dict(state_dict=dict(w='import os'))),
        "holds 'w' in state_dict, a str, expected a tensor",
    ),
    'state dict that is a list': (
        saved(lambda canary: dict(state_dict=[torch.rand(2)])),
        'holds state_dict, a list, expected a dict',
    ),
    'averages that are numbers': (
        saved(lambda canary: dict(state_dict=WEIGHTS, ema_state_dict=dict(w=1))),
        "holds 'w' in ema_state_dict, a int",
    ),
    'meta that is a text': (
        saved(lambda canary: dict(state_dict=WEIGHTS, meta='x')),
        'holds meta, a str, expected a dict',
    ),
    'hub that is a list': (
        saved(lambda canary: dict(state_dict=WEIGHTS, message_hub=[1])),
        'holds message_hub, a list',
    ),
    'sparse tensor': (
        saved(lambda canary: dict(state_dict=dict(w=torch.eye(3).to_sparse()))),
        MANY,
    ),
}
LYING = {
    'offsets outside': safetensors(dict(w=tensor(shape=(400,), offsets=(0, 1600)))),
    'overlapping': safetensors(dict(a=tensor(), b=tensor())),
    'gap': safetensors(dict(a=tensor(shape=(1,), offsets=(12, 16)))),
    'backwards': safetensors(dict(a=tensor(offsets=(16, 0)))),
    'header beyond the file': safetensors(dict(w=tensor()), length=10**6),
    'gigantic header': safetensors(dict(w=tensor()), length=2**63),
    'negative shape': safetensors(dict(w=tensor(shape=(-4,)))),
    'overflowing shape': safetensors(dict(w=tensor(shape=(2**62, 4)))),
    'shape and size differ': safetensors(dict(w=tensor(shape=(5,)))),
    'unknown dtype': safetensors(dict(w=tensor(dtype='O64'))),
    'header that is no JSON': safetensors(b'{"w": __import__("os")}'),
    'header that is a list': safetensors([1, 2]),
    'no tensor': safetensors({}, data=b''),
    'pickle under the name': lambda path, canary: path.with_suffix('.safetensors').write_bytes(
        pickle.dumps(Call(os.mkdir, str(canary)))
    ),
    'empty': lambda path, canary: path.with_suffix('.safetensors').write_bytes(b''),
}
