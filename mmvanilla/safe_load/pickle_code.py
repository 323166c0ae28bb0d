"""Check the program of a pickle before torch runs it.

torch's unpickler calls only functions of a list. Two things remain: its list has more than weights
need, and a short program can build a value that takes forever to hash.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .records import MAX_VALUES, RECORDS

DTYPES = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8')
STORAGES = dict(
    DoubleStorage=8,
    FloatStorage=4,
    HalfStorage=2,
    BFloat16Storage=2,
    LongStorage=8,
    IntStorage=4,
    ShortStorage=2,
    CharStorage=1,
    ByteStorage=1,
    BoolStorage=1,
)  # fmt: skip - bytes of a number
ALLOWED = {
    *('torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_parameter'),
    *('torch.Size', 'torch.device', 'torch.bool', *(f'torch.{dtype}' for dtype in DTYPES)),
    *(f'torch.{storage}' for storage in STORAGES),
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


@dataclass
class Tuple:
    """A tuple on the stack, with its number of values, nested ones included."""

    values: list
    size: int


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
        if name == 'GLOBAL':
            stack.append(_check_global(str(argument)))
        elif name.endswith('BINGET'):
            stack.append(memo[argument])
        elif name.endswith('BINPUT'):
            memo[argument] = stack[-1]
        elif 'TUPLE' in name:
            stack.append(_check_tuple(values))
        elif name in ('REDUCE', 'NEWOBJ'):
            _check_call(*values)
            stack.append(None)
        elif name == 'BINPERSID':
            _check_storage(values[0].values, size, storages)
            stack.append(None)
        elif name in IN_PLACE:
            if type(values[0]) is Global:
                raise CheckpointError(f'changes {values[0]}')
            stack.append(values[0])
        elif opcode.stack_after:
            stack.append(argument)
        count += name.startswith(MAKES)
        if count > MAX_VALUES:
            raise CheckpointError(f'builds more than {MAX_VALUES:,} values')


def _check_global(argument: str) -> Global:
    """Return the full name of a class or function that weights need."""
    module, _, name = argument.partition(' ')
    full = '.'.join(of_python_3(module, name))
    if full not in ALLOWED:
        raise CheckpointError(f'holds more than weights ({full})')
    return Global(full)


def of_python_3(module: str, name: str) -> tuple[str, str]:
    """Convert a name of Python 2, as in the protocol of torch.save."""
    return NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))


def _check_tuple(values: list) -> Tuple:
    """Return a tuple that is not too large to hash."""
    size = 1 + sum(value.size if type(value) is Tuple else 1 for value in values)
    if size > MAX_VALUES:
        raise CheckpointError(f'builds more than {MAX_VALUES:,} values')
    return Tuple(values, size)


def _check_call(function: Any, arguments: Any) -> None:
    """Refuse calls of anything but a global, and codecs other than latin1."""
    if type(function) is not Global:
        raise CheckpointError('calls what it made itself')
    if function == '_codecs.encode':
        text, encoding = arguments.values
        if not (type(text) is str and encoding == 'latin1'):
            raise CheckpointError(f'holds more than weights (the codec {encoding!r})')


def _check_storage(persistent_id: list, size: int, storages: dict[str, int] | None) -> None:
    """Refuse a storage that is larger than its data, which torch would read beyond its end."""
    _, storage, key, _, length = persistent_id[:5]
    if type(storage) is not Global or type(key) is not str or type(length) is not int:
        raise CheckpointError('holds a forged storage')
    if storages is not None:
        size = storages.get(key, 0)
    if not 0 <= length * STORAGES[storage.removeprefix('torch.')] <= size:
        raise CheckpointError(
            f'declares a tensor of {length} numbers in {size} bytes, so it is truncated or forged'
        )
