"""Check the program of a pickle before torch runs it.

torch's unpickler calls only functions of a list. The list here is shorter. Storages must not be
larger than their data, and the number of values is bounded: a short program can build a value that
takes forever to hash. torch before 2.5 needs the check of every call.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .records import RECORDS, check_count

DTYPES = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8')
# Bytes of a number in torch.DoubleStorage, ...
BYTES = dict(Double=8, Float=4, Half=2, BFloat16=2, Long=8, Int=4, Short=2, Char=1, Byte=1, Bool=1)
ALLOWED = {
    *('torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_parameter'),
    *('torch.Size', 'torch.device', 'torch.bool', *(f'torch.{dtype}' for dtype in DTYPES)),
    *(f'torch.{number}Storage' for number in BYTES),
    *('collections.OrderedDict', 'collections.Counter', 'builtins.set', '_codecs.encode'),
    *RECORDS,
}
MAKES = ('EMPTY', 'TUPLE', 'REDUCE', 'NEWOBJ', 'BINPERSID')  # containers and objects
IN_PLACE = {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'BUILD'}
# All opcodes that torch.save writes.
OPCODES = {
    *('PROTO', 'STOP', 'MARK', 'GLOBAL', 'REDUCE', 'NEWOBJ', 'BINPERSID', *IN_PLACE),
    *('BINPUT', 'LONG_BINPUT', 'BINGET', 'LONG_BINGET', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'),
    *('NONE', 'NEWTRUE', 'NEWFALSE', 'EMPTY_TUPLE', 'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET'),
    *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINSTRING'),
}


class Global(str):
    """Full name of a class or function."""


class Tuple(list):
    """A tuple on the stack, with its number of values, nested ones included."""

    size: int

    def __init__(self, values: list) -> None:
        super().__init__(values)
        self.size = 1 + sum(value.size if type(value) is Tuple else 1 for value in values)


def check_program(file: BinaryIO, size: int, storages: dict[str, int] | None = None) -> None:
    """Read one pickle to its end.

    Args:
        file: The file, at the start of the pickle.
        size: Size of the checkpoint in bytes.
        storages: Size of each storage in bytes, by its key; torch does not compare it. None for a
            file without an archive.

    Raises:
        CheckpointError: The pickle is refused; the message says why, in the third person.
        Exception: Others, if it is not a pickle.
    """
    stack: list[Any] = []  # names, constants and tuples; None for other values
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    count = 0
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name not in OPCODES:
            raise CheckpointError(f'holds the instruction {name}, which torch.save never writes')
        if name == 'MARK':
            marks.append(len(stack))
            continue
        fixed = [kind for kind in opcode.stack_before if kind is not pickletools.stackslice]
        has_mark = pickletools.markobject in fixed
        start = (marks.pop() if has_mark else len(stack)) - len(fixed) + has_mark
        values = stack[start:]
        del stack[start:]
        made = argument
        if name == 'GLOBAL':
            made = check_global(*str(argument).split(' ', 1))
        elif name.endswith('BINGET'):
            made = memo[argument]
        elif name.endswith('BINPUT'):
            memo[argument] = stack[-1]
        elif 'TUPLE' in name:
            made = Tuple(values)
            check_count(made.size)  # hashing takes as long
        elif name in ('REDUCE', 'NEWOBJ'):
            _check_call(*values)
        elif name == 'BINPERSID':
            _check_storage(values[0][1:5], size, storages)
        elif name in IN_PLACE:
            made = values[0]
            if type(made) is Global:
                raise CheckpointError(f'changes {made}')
        if opcode.stack_after:
            stack.append(made)
        count += name.startswith(MAKES)
        check_count(count)


def check_global(module: str, name: str) -> Global:
    """Return the full name of a class or function that weights need.

    Raises:
        CheckpointError: Weights do not need it.
    """
    # torch.save's protocol has the names of Python 2.
    full = '.'.join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))
    if full not in ALLOWED:
        raise CheckpointError(f'holds more than weights ({full})')
    return Global(full)


def _check_call(function: Any, arguments: Any) -> None:
    """Refuse calls of anything but a global, and codecs other than latin1."""
    if type(function) is not Global:
        raise CheckpointError('calls what it made itself')
    if function == '_codecs.encode' and (type(arguments[0]) is not str or arguments[1] != 'latin1'):
        raise CheckpointError(f'holds more than weights (the codec {arguments[1]!r})')


def _check_storage(persistent_id: list, size: int, storages: dict[str, int] | None) -> None:
    """Refuse a storage that is larger than its data, which torch would read beyond its end."""
    storage, key, _, length = persistent_id
    if type(storage) is not Global or type(key) is not str or type(length) is not int:
        raise CheckpointError('holds a forged storage')
    if storages is not None:
        size = storages.get(key, 0)
    number = storage.removeprefix('torch.').removesuffix('Storage')
    if not 0 <= length * BYTES[number] <= size:
        raise CheckpointError(
            f'declares a tensor of {length} numbers in {size} bytes, so it is truncated or forged'
        )
