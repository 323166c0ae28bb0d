"""Reading what a pickle would do without doing any of it.

A pickle is a program. torch runs it with ``weights_only=True``, which calls nothing but what is on
a list; here its instructions are only read, so that what is not weights is named and refused before
a single one is run, and so are programs that build little but cost without bound.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from graphlib import CycleError, TopologicalSorter
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .records import RECORDS

KINDS = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8')
STORAGES = ('Double', 'Float', 'Half', 'BFloat16', 'Long', 'Int', 'Short', 'Char', 'Byte', 'Bool')
# Whatever else torch itself lets in (attributes of tensors, other layouts, raw storages, buffers of
# any size) is not needed for weights.
ALLOWED = frozenset(
    {
        'torch._utils._rebuild_tensor_v2',
        'torch._utils._rebuild_parameter',
        'torch.Size',
        'torch.device',
        'torch.bool',
        *(f'torch.{kind}' for kind in KINDS),
        *(f'torch.{storage}Storage' for storage in STORAGES),
        'collections.OrderedDict',
        'collections.Counter',
        'builtins.set',
        '_codecs.encode',
        *RECORDS,
    }
)

# A training checkpoint of Mask R-CNN with VanillaNet-13 and AdamW has 22,665 values, 8 deep.
MAX_VALUES = 1_000_000
MAX_DEPTH = 100

IN_PLACE = {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'BUILD'}
# All that torch.save writes.
INSTRUCTIONS = {
    *('PROTO', 'STOP', 'MARK', 'GLOBAL', 'REDUCE', 'NEWOBJ', 'BINPERSID', *IN_PLACE),
    *('BINPUT', 'LONG_BINPUT', 'BINGET', 'LONG_BINGET', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'),
    *('NONE', 'NEWTRUE', 'NEWFALSE', 'EMPTY_TUPLE', 'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET'),
    *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINSTRING'),
}


class Global(str):
    """The full name of a class or function."""


class Node:
    """A value that is made of others."""

    def __init__(self, parts: list) -> None:
        self.parts = parts


def check_program(file: BinaryIO, size: int) -> None:
    """Read one pickle up to its end.

    Args:
        file: Where it begins.
        size: Size of the checkpoint in bytes, more than which no tensor can hold.

    Raises:
        CheckpointError: If it is refused; the message is what the checkpoint does, in the third
            person.
        Exception: Others, if it is no pickle.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    nodes: list[Node] = []
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name not in INSTRUCTIONS:
            raise CheckpointError(f'holds the instruction {name}, which torch.save never writes')
        if name == 'MARK':
            marks.append(stack)
            stack = []
            continue
        if pickletools.markobject in opcode.stack_before:
            parts, stack = stack, marks.pop()
            parts = [stack.pop(), *parts] if name in IN_PLACE else parts
        else:
            parts = [stack.pop() for _ in opcode.stack_before][::-1]
        if name in IN_PLACE:
            container, *added = parts
            container.parts += added
            stack.append(container)
        elif name == 'GLOBAL':
            stack.append(_global(str(argument)))
        elif name.endswith('BINGET'):
            stack.append(memo[argument])
        elif name.endswith('BINPUT'):
            memo[argument] = stack[-1]
        elif parts or name.startswith(('EMPTY', 'TUPLE')):
            if name in ('REDUCE', 'NEWOBJ'):
                _check_call(*parts)
            elif name == 'BINPERSID' and not 0 <= (length := parts[0].parts[4]) <= size:
                raise CheckpointError(
                    f'declares a tensor of {length} numbers in a file of {size} bytes'
                )
            nodes.append(Node(parts))
            stack.append(nodes[-1])
        elif opcode.stack_after:
            stack.append(argument)
        if len(nodes) > MAX_VALUES:
            raise CheckpointError(f'builds more than {MAX_VALUES:,} values')
    _check_size(nodes)


def _global(argument: str) -> Global:
    """Return the full name of a class or function that a pickle asks for.

    Raises:
        CheckpointError: If it is none of those that weights need.
    """
    module, _, name = argument.partition(' ')
    module, name = of_python_3(module, name)
    if f'{module}.{name}' not in ALLOWED:
        raise CheckpointError(f'holds more than weights ({module}.{name})')
    return Global(f'{module}.{name}')


def of_python_3(module: str, name: str) -> tuple[str, str]:
    """Return what a name of Python 2 has become, which the protocol of torch.save still uses."""
    return NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))


def _check_call(function: object, arguments: Node) -> None:
    """Check that what is called is from the list, and that encoded text is bytes, no more."""
    if type(function) is not Global:
        raise CheckpointError('calls what it made itself')
    if function == '_codecs.encode':
        text, encoding = arguments.parts
        if not (type(text) is str and encoding == 'latin1'):
            raise CheckpointError(f'holds more than weights (the codec {encoding!r})')


def _check_size(nodes: list[Node]) -> None:
    """Check how large values would be where every reference to another were written out.

    Hashing, copying or printing a value costs that much; doubled thirty times, a list of two is
    larger than any memory.
    """
    graph = {node: [part for part in node.parts if type(part) is Node] for node in nodes}
    values: dict[Node, int] = {}
    depths: dict[Node, int] = {}
    try:
        for node in TopologicalSorter(graph).static_order():
            values[node] = len(node.parts) + sum(values[part] for part in graph[node])
            depths[node] = 1 + max((depths[part] for part in graph[node]), default=0)
            if values[node] > MAX_VALUES:
                raise CheckpointError(f'builds more than {MAX_VALUES:,} values')
            if depths[node] > MAX_DEPTH:
                raise CheckpointError(f'nests values more than {MAX_DEPTH} deep')
    except CycleError:
        raise CheckpointError('holds a value that contains itself') from None
