"""What stands in for the objects of a training checkpoint while it is read.

A pickle tells objects what to do: it calls them, gives them any state, and what numpy does with a
forged state is not safe. So it gets records, which only write down what they are told. Once
everything is read, the few objects that training checkpoints hold are made from these, checked.
"""

from collections import Counter, OrderedDict
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from ..errors import CheckpointError

KINDS = ('b1', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8')


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
            CheckpointError: If what was recorded is not that of such an object.
        """
        raise NotImplementedError

    def require(self, condition: bool) -> None:
        """Refuse what was recorded unless a condition holds."""
        if not condition:
            raise CheckpointError(f'holds a forged {type(self).__name__}')


class Method(Record):
    """``getattr``, by which a HistoryBuffer refers to its own methods; it brings these itself."""

    def make(self) -> NoReturn:
        """Refuse, as anywhere else than in a HistoryBuffer no method is needed."""
        raise CheckpointError('holds more than weights (builtins.getattr)')


class Kind(Record):
    """``numpy.dtype`` of a number."""

    def make(self) -> np.dtype:
        """Return the type."""
        self.require(len(self.args) > 0 and type(self.args[0]) is str and self.args[0] in KINDS)
        order = '='
        if self.state is not None:
            self.require(type(self.state) is tuple and len(self.state) == 8)
            order, rest = self.state[1], self.state[2:]
            self.require(type(order) is str and order in ('<', '>', '|', '='))
            self.require(rest == (None, None, None, -1, -1, 0))
        return np.dtype(self.args[0]).newbyteorder(order)


class Array(Record):
    """``numpy.ndarray`` of numbers."""

    def make(self) -> np.ndarray:
        """Return the array."""
        self.require(type(self.state) is tuple and len(self.state) == 5)
        _, shape, kind, fortran, data = self.state
        self.require(type(kind) is Kind and type(data) is bytes and type(shape) is tuple)
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
        self.require(type(kind) is Kind and type(data) is bytes)
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
    """``argparse.Namespace``, in which training scripts leave their arguments."""

    def make(self) -> dict:
        """Return the arguments by name."""
        return plain(self.state)


# By the names in pickles, those of numpy 1 and numpy 2 both.
RECORDS: dict[str, type[Record]] = {
    'mmengine.logging.history_buffer.HistoryBuffer': History,
    'builtins.getattr': Method,
    'numpy.ndarray': Array,
    'numpy.dtype': Kind,
    'argparse.Namespace': Arguments,
    **{
        f'numpy.{core}.multiarray.{name}': record
        for core in ('core', '_core')
        for name, record in (('_reconstruct', Array), ('scalar', Scalar))
    },
}


def plain(value: Any) -> Any:
    """Return what was read with its records made into what they stand for, and nothing else in it.

    Args:
        value: Tensors, numbers, texts, records, and containers of these.

    Raises:
        CheckpointError: If something else is in it, or a record is forged.
    """
    kind = type(value)
    if isinstance(value, Record):
        return value.make()
    if isinstance(value, Tensor):
        return _plain_tensor(value)
    if kind in (list, tuple, set):
        return kind(plain(part) for part in value)
    if kind in (dict, OrderedDict, Counter):
        made: Any = kind((plain(name), plain(part)) for name, part in value.items())
        if attributes := getattr(value, '__dict__', None):
            made._metadata = _plain_metadata(attributes)
        return made if kind is not Counter else Counter(dict(made))
    if value is None or kind in (bool, int, float, str, bytes, torch.Size):
        return value
    if kind in (torch.dtype, torch.device):
        return value
    raise CheckpointError(f'holds more than weights ({getattr(value, "__name__", kind.__name__)})')


def _plain_tensor(value: Tensor) -> Tensor:
    """Return a tensor without its hooks and attributes."""
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
        raise CheckpointError(f'holds more than weights ({type(value).__name__})')
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(f'declares a tensor of {tuple(value.shape)}, but holds less')
    return value.detach()


def _plain_metadata(attributes: dict) -> dict:
    """Return the versions of modules, the only attribute of a state dict."""
    metadata = attributes.get('_metadata')
    if not (
        attributes.keys() == {'_metadata'}
        and isinstance(metadata, dict)
        and all(isinstance(each, dict) for each in metadata.values())
        and all(type(each.get('version')) in (int, type(None)) for each in metadata.values())
    ):
        raise CheckpointError('holds a forged state dict')
    return plain(metadata)
