"""Stand-ins for the objects of a training checkpoint while it is read.

A pickle calls classes and sets the state of objects, and numpy crashes on forged states. Records
only store arguments and state. After reading, they are checked and replaced by the objects.
"""

import itertools
from collections import Counter, OrderedDict
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from ..errors import CheckpointError

# A training checkpoint of Mask R-CNN with VanillaNet-13 and AdamW has 22,665 values, 8 deep.
MAX_VALUES = 1_000_000
MAX_DEPTH = 100
CONSTANTS = (bool, int, float, str, bytes, torch.Size, torch.dtype, torch.device)
NUMBERS = ('b1', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8')


class Record:
    """Arguments and state of an object."""

    args: tuple = ()
    state: Any = None

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state

    def make(self) -> Any:
        """Return the object.

        Raises:
            CheckpointError: Arguments or state do not fit such an object.
        """
        raise NotImplementedError

    def require(self, condition: bool) -> None:
        """Raise CheckpointError unless a condition holds."""
        if not condition:
            raise CheckpointError(f'holds a forged {type(self).__name__}')


class Method(Record):
    """``getattr`` in the state of a HistoryBuffer, which refers to its methods; not needed."""

    def make(self) -> NoReturn:
        """Refuse methods outside a HistoryBuffer."""
        raise CheckpointError('holds more than weights (builtins.getattr)')


class DType(Record):
    """``numpy.dtype`` of a number."""

    def make(self) -> np.dtype:
        """Return the dtype."""
        self.require(len(self.args) > 0 and type(self.args[0]) is str and self.args[0] in NUMBERS)
        if self.state is not None:
            self.require(type(self.state) is tuple and self.state[1] in ('<', '|', '='))
            self.require(self.state[2:] == (None, None, None, -1, -1, 0))
        return np.dtype(self.args[0])


class Array(Record):
    """``numpy.ndarray`` of numbers."""

    def make(self) -> np.ndarray:
        """Return the array."""
        self.require(type(self.state) is tuple and len(self.state) == 5)
        _, shape, kind, fortran, data = self.state
        self.require(type(kind) is DType and type(data) is bytes and type(shape) is tuple)
        self.require(all(type(side) is int and side >= 0 for side in shape))
        values = np.frombuffer(data, kind.make())
        self.require(values.size == np.prod(shape, dtype=object))
        return values.reshape(shape, order='F' if fortran else 'C').copy()


class Scalar(Record):
    """``numpy.float64`` and the like."""

    def make(self) -> np.generic:
        """Return the number."""
        self.require(len(self.args) == 2)
        kind, data = self.args
        self.require(type(kind) is DType and type(data) is bytes)
        values = np.frombuffer(data, kind.make())
        self.require(values.size == 1)
        return values[0]


class History(Record):
    """``mmengine.logging.HistoryBuffer``."""

    def make(self) -> HistoryBuffer:
        """Return the buffer."""
        self.require(type(self.state) is dict)
        logs, counts = (self.state.get(f'_{name}_history') for name in ('log', 'count'))
        length = self.state.get('max_length')
        self.require(type(logs) is Array and type(counts) is Array)
        self.require(type(length) is int and length > 0)
        logs, counts = logs.make(), counts.make()
        self.require(logs.shape == counts.shape == (logs.size,) and logs.size <= length)
        return HistoryBuffer(logs, counts, length)


class Arguments(Record):
    """``argparse.Namespace`` with the arguments of a training script, a dict when rebuilt."""


# By their names in pickles, of numpy 1 and numpy 2.
RECORDS: dict[str, type[Record]] = {
    'mmengine.logging.history_buffer.HistoryBuffer': History,
    'builtins.getattr': Method,
    'numpy.ndarray': Array,
    'numpy.dtype': DType,
    'argparse.Namespace': Arguments,
    **{
        f'numpy.{core}.multiarray.{name}': record
        for core in ('core', '_core')
        for name, record in (('_reconstruct', Array), ('scalar', Scalar))
    },
}


def check_count(count: int) -> None:
    """Refuse a file that builds too many values; one that is referenced twice counts twice."""
    if count > MAX_VALUES:
        raise CheckpointError(f'builds more than {MAX_VALUES:,} values')


def rebuilt(value: Any) -> Any:
    """Replace the records in a value by their objects.

    Args:
        value: Tensors, numbers, strings, records, and containers of these.

    Raises:
        CheckpointError: The value holds something else or a forged record, or is too large.
    """
    counter = itertools.count(1)

    def rebuild(value: Any, depth: int) -> Any:
        kind = type(value)
        check_count(next(counter))
        if depth > MAX_DEPTH:
            raise CheckpointError(f'nests values more than {MAX_DEPTH} deep')
        if kind is Arguments:
            return rebuild(value.state, depth + 1)
        if isinstance(value, Record):
            return value.make()
        if isinstance(value, Tensor):
            return _check_tensor(value).detach()  # without hooks and attributes
        if kind in (list, tuple, set):
            return kind(rebuild(item, depth + 1) for item in value)
        if kind in (dict, OrderedDict, Counter):
            items = value.items()
            made: Any = kind({rebuild(k, depth + 1): rebuild(v, depth + 1) for k, v in items})
            if attributes := getattr(value, '__dict__', None):
                made._metadata = _check_metadata(attributes)
            return made
        if value is None or kind in CONSTANTS:
            return value
        name = getattr(value, '__name__', kind.__name__)
        raise CheckpointError(f'holds more than weights ({name})')

    return rebuild(value, 0)


def _check_tensor(value: Tensor) -> Tensor:
    """Refuse other types, other layouts, and shapes larger than the data."""
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
        raise CheckpointError(f'holds more than weights ({type(value).__name__})')
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(f'declares a tensor of {tuple(value.shape)}, but holds less')
    return value


def _check_metadata(attributes: dict) -> dict:
    """Return the versions of modules, the only attribute of a state dict."""
    metadata = rebuilt(attributes.get('_metadata'))
    if not (
        attributes.keys() == {'_metadata'}
        and type(metadata) in (dict, OrderedDict)
        and all(isinstance(each, dict) for each in metadata.values())
        and all(type(each.get('version')) in (int, type(None)) for each in metadata.values())
    ):
        raise CheckpointError('holds a forged state dict')
    return metadata
