"""Deep training (paper, section 3.1): train two convolutions, deploy one."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..backports import OLD_DYNAMO, MaybeTensor, is_compiling
from ..errors import UserError, require
from .reparam import Reparameterizable


def anneal(x: Tensor, slope: MaybeTensor) -> Tensor:
    """Apply the activation that deep training anneals, a leaky ReLU.

    It is (1 - slope) * relu(x) + slope * x. The slope, a tensor of one value, rises from 0 to 1.
    None stands for a slope of 1: x is returned at no cost.
    """
    return x if slope is None else F.prelu(x, slope.to(x.dtype))


class DeepTraining(Reparameterizable):
    """Base class of modules with ``act_learn`` in their training form.

    The value is in the buffer ``_act_learn``, so that checkpoints, averaged copies and broadcasts
    include it. Forward computes with the buffer and never copies it to the host. It skips the
    activation only if the value is known to be 1. Setting ``act_learn``, loading a checkpoint and
    ``train()`` read the value.

    On a CPU each forward reads the value again. On a GPU reading would synchronize, so forward
    never skips in eval mode, since an average may have written the buffer. In training mode it
    misses other writes until the next ``train()``: set the same value in all processes, as
    ``DeepTrainingHook`` does.
    """

    __jit_unused_properties__ = ('act_learn', 'slope')

    def __prepare_scriptable__(self) -> 'DeepTraining':
        """Raise UserError: torch.jit.script cannot compile this module."""
        raise UserError(
            f'{type(self).__name__} is given to torch.jit.script, which cannot compile its Python '
            'code; use torch.jit.trace(model.eval(), images) or torch.export.export'
        )

    def add_act_learn(self) -> None:
        """Add ``act_learn`` with the value after deep training, 1."""
        self.register_buffer('_act_learn', torch.tensor(1.0))
        self._known_one = self._act_learn

    def become(self, old: Sequence[str], **new: nn.Module) -> None:
        """Switch to the deploy form, without ``act_learn``; see ``Reparameterizable``."""
        super().become(old, **new)
        del self._act_learn, self._known_one

    @property
    def act_learn(self) -> float:
        """The deep-training weight, from 0 to 1; 1 in deploy form. Reading it synchronizes."""
        return 1.0 if self.deploy else self._act_learn.item()

    @act_learn.setter
    def act_learn(self, value: float) -> None:
        fits = isinstance(value, int | float) and 0 <= value <= 1
        require('act_learn', value, fits, 'a number from 0 to 1')
        if self.deploy:
            require('act_learn', value, value == 1, '1, the only value in deploy form')
        else:
            self._act_learn.fill_(value)
            self._known_one = self._act_learn if value == 1 else None

    @property
    def slope(self) -> Tensor | None:
        """``act_learn`` for ``anneal``, on the device; None if the value is known to be 1."""
        if self.deploy or self._is_one():
            return None
        return self._act_learn.clone()  # backward needs this value, and the buffer may change

    def slope_for(self, x: Tensor) -> Tensor | None:
        """Return ``slope``; in training, a symbolic trace gets the buffer, to read it later."""
        traced = isinstance(x, fx.Proxy) and self.training and not self.deploy
        return self._act_learn if traced else self.slope

    def _is_one(self) -> bool:
        """Return whether the value is known to be 1, without synchronizing."""
        buffer = self._act_learn
        if is_compiling() and OLD_DYNAMO:
            return self.training and self._known_one is not None
        if buffer is not self._known_one:  # also after a conversion or copy replaced the buffer
            return False
        if is_compiling() or type(buffer) is not Tensor or buffer.device.type != 'cpu':
            return self.training  # in eval mode an average may have written the buffer
        try:
            return buffer.tolist() == 1
        except RuntimeError:  # within torch.func, before torch 2.6
            return False

    def refresh_act_learn(self) -> None:
        """Read ``act_learn`` after others wrote its buffer; on a GPU this synchronizes."""
        if not self.deploy:
            buffer = self._act_learn
            is_real = type(buffer) is Tensor and not buffer.is_meta
            self._known_one = buffer if is_real and buffer.item() == 1 else None

    def train(self, mode: bool = True) -> 'DeepTraining':
        """Switch the mode and read ``act_learn``."""
        super().train(mode)
        self.refresh_act_learn()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.refresh_act_learn()

    def check_act_learn(self, prefix: str) -> None:
        """Raise UserError unless ``act_learn`` is 1, so that two convolutions fuse into one."""
        if self.act_learn != 1:
            name = prefix.removesuffix('.') or type(self).__name__
            raise UserError(
                f'act_learn of {name} is {self.act_learn:g}, expected 1: '
                'fusing would drop the activation between pairs of convolutions; finish deep '
                'training or use a later checkpoint'
            )
