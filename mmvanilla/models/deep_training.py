"""Deep training (paper, section 3.1): two convolutions that are trained, one that is deployed."""

from collections.abc import Callable
from ctypes import string_at
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backports import MaybeTensor, is_compiling
from ..errors import UserError, require
from .conv_norm import build_norm
from .reparam import (
    Reparameterizable,
    carry_over,
    conv_like,
    fold,
    fuse,
    merge,
    plain_conv,
    uses_twin,
)

# The bytes of 1 in each type.
ONES = {
    dtype: bytes(torch.ones((), dtype=dtype, device='cpu').untyped_storage())
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def anneal(x: Tensor, slope: MaybeTensor) -> Tensor:
    """Apply the activation between two convolutions that deep training anneals away.

    It is (1 - slope) * relu(x) + slope * x: a leaky ReLU whose slope, a tensor of one value, rises
    from 0 to 1. None is 1, the identity, which costs nothing.
    """
    return x if slope is None else F.prelu(x, slope.to(x.dtype))


class DeepTraining(Reparameterizable):
    """What has ``act_learn`` in its training form: the backbone, its head, a split convolution.

    The buffer ``_act_learn`` is what checkpoints, averaged copies and broadcasts see, and forward
    takes it as a tensor: nothing is brought to the host. Only that it is 1, and may be skipped, is
    remembered with the buffer's identity and version. Once others have written to it, it is not
    skipped until ``look`` looks again, as each change of mode does. On a GPU what another
    process sends, and what is written to ``.data``, changes no version: set the same everywhere, as
    ``DeepTrainingHook`` does, or look.
    """

    __jit_unused_properties__ = ('act_learn', 'slope')

    def __prepare_scriptable__(self) -> 'DeepTraining':
        """Refuse torch.jit.script, which asks every module this."""
        raise UserError(
            f'{type(self).__name__} is given to torch.jit.script, which cannot compile its Python '
            'code; use torch.jit.trace(model.eval(), images) or torch.export.export'
        )

    def add_act_learn(self) -> None:
        """Begin at 1, as in a net whose deep training is over."""
        self.register_buffer('_act_learn', torch.tensor(1.0))
        self._remember(True)

    @property
    def act_learn(self) -> float:
        """The deep-training weight, from 0 to 1; 1 in deploy form. Reading it synchronises."""
        return 1.0 if self.deploy else self._act_learn.item()

    @act_learn.setter
    def act_learn(self, value: float) -> None:
        fits = isinstance(value, int | float) and 0 <= value <= 1
        require('act_learn', value, fits, 'a number from 0 to 1')
        if self.deploy:
            require('act_learn', value, value == 1, '1, the only one of a deploy-form net')
        else:
            self._act_learn.fill_(value)
            self._remember(value == 1)

    @property
    def slope(self) -> Tensor | None:
        """``act_learn`` as ``anneal`` takes it: on the device, None if it is known to be 1."""
        if self.deploy:
            return None
        # Compiled code cannot see who wrote; averages, which others write, are used in eval mode.
        sure = self.training if is_compiling() else self._still_one()
        if self._is_one and sure:
            return None
        return self._act_learn.clone()  # so that it may be set before the backward pass

    def _remember(self, is_one: bool) -> None:
        self._is_one, self._seen = is_one, self._state()

    def _state(self) -> tuple[int, int]:
        """Return what changes when the buffer is replaced or written to, on any device."""
        buffer = self._act_learn
        # There is no public name for the version, by which autograd finds writing in place.
        return id(buffer), -1 if buffer.is_inference() else buffer._version

    def _still_one(self) -> bool:
        if self._seen != self._state():
            return False
        # Broadcasts write past the version. In the host's own memory that costs nothing to see, in
        # bytes, as tracers, fake tensors and torch.func take part in what is done with a tensor.
        buffer = self._act_learn
        if type(buffer) is not Tensor or buffer.device.type != 'cpu':
            return True
        return string_at(buffer.data_ptr(), buffer.itemsize) == ONES.get(buffer.dtype)

    def look(self) -> None:
        """See whether ``act_learn`` is 1; on a GPU this synchronises."""
        # Under fake and meta tensors there is nothing to see, and the slope is taken as it comes.
        real = type(self._act_learn) is Tensor and not self._act_learn.is_meta
        self._remember(real and self._act_learn.item() == 1)

    def train(self, mode: bool = True) -> 'DeepTraining':
        """Switch the mode; see whether ``act_learn`` is 1 if that is not known."""
        changed = mode != self.training
        super().train(mode)
        if not self.deploy and (changed or self._seen != self._state()):
            self.look()
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not self.deploy:
            self.look()

    def check_act_learn(self, name: str) -> None:
        """Raise UserError unless deep training is over, so that two convolutions are one."""
        if self.act_learn != 1:
            raise UserError(
                f'act_learn of {name or type(self).__name__} is {self.act_learn:g}, expected 1: '
                'fused now, the net would lose the activation between its pairs of convolutions; '
                'finish its deep training, or use a checkpoint from after it'
            )


class DeepConv(DeepTraining):
    """A convolution split into two, ``conv2(anneal(norm(conv1(x))))``, of which the second is 1x1.

    Fused, it is one convolution again. As in VanillaNet the two have the input's channels between
    them where the kernel is 1x1, and otherwise the output's. In eval mode the split itself changes
    nothing: one of the two begins as the convolution that it was, the other as the identity.

    Args:
        conv: The convolution, of any kernel, stride and padding, in one group and not dilated.
        norm_cfg: Config of the norm between the two, a batch norm if it is to be fused, or None.

    Raises:
        UserError: If it cannot be split.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006 - read, never written
    ) -> None:
        super().__init__()
        reason = unfit(conv)
        if reason:
            raise UserError(
                f'{conv} cannot be trained deep: it {reason}, expected an nn.Conv2d of one group '
                'without dilation; leave it as it is'
            )
        pointwise = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), 'valid', 'same')
        between = conv.in_channels if pointwise else conv.out_channels
        with torch.device(conv.weight.device):
            self.conv1 = conv_like(conv, conv.in_channels, between)
            self.norm = build_norm(norm_cfg, between) if norm_cfg else nn.Identity()
            self.conv2 = nn.Conv2d(between, conv.out_channels, 1)
            identity, original = (self.conv1, self.conv2) if pointwise else (self.conv2, self.conv1)
            with torch.no_grad():
                nn.init.dirac_(identity.weight)
                original.weight.copy_(conv.weight)
                self.conv1.bias.zero_()
                # A fresh batch norm divides by sqrt(1 + eps).
                self.conv2.weight.mul_((1 + getattr(self.norm, 'eps', 0)) ** 0.5)
                self.conv2.bias.zero_()
                if conv.bias is not None:
                    self.conv2.bias.copy_(conv.bias)
            self.add_act_learn()
        if self.conv1.weight.dtype != conv.weight.dtype:
            self.to(conv.weight.dtype)
        self.requires_grad_(conv.weight.requires_grad)
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        if self.deploy:
            return self.conv(x)
        if uses_twin(self):
            return self.twin(x)
        return self.conv2(anneal(self.norm(self.conv1(x)), self.slope))

    def __prepare_scriptable__(self) -> DeepTraining:
        """Let torch.jit.script compile the deploy form."""
        return self if self.deploy else super().__prepare_scriptable__()

    def reparameterize(self, name: str = '') -> Callable[[], None]:
        """Compute the one convolution, ``conv``, with a bias; see ``Reparameterizable``."""
        self.check_act_learn(name)
        first = fold(self.conv1, self.norm, f'{name}.norm'.lstrip('.'))
        conv = plain_conv(self.conv1, *merge(first, fold(self.conv2, None))).train(self.training)

        def switch() -> None:
            del self.conv1, self.norm, self.conv2, self._act_learn
            self.conv, self.deploy = conv, True

        return switch


def unfit(conv: nn.Module) -> str | None:
    """Return why a layer cannot be split in two, None if it can."""
    if type(conv) is not nn.Conv2d:  # subclasses may compute something else
        return f'is a {type(conv).__name__}'
    if conv.groups > 1:
        return f'has {conv.groups} groups'
    if set(conv.dilation) != {1}:
        return f'has a dilation of {conv.dilation}'
    return None


def split_convs(model: nn.Module, norm_cfg: dict | None = dict(type='BN')) -> nn.Module:  # noqa: B006 - read, never written
    """Make every convolution of a model that can be split a ``DeepConv``, in place.

    What is trained deep already stays, and so do grouped, dilated and transposed convolutions;
    ``norm_cfg`` is that of ``DeepConv``. Returns the model itself.
    """
    for name, child in model.named_children():
        if isinstance(child, DeepTraining):
            continue
        if unfit(child):
            split_convs(child, norm_cfg)
        else:
            setattr(model, name, carry_over(child, DeepConv(child, norm_cfg)))
    return model


def join_convs(model: nn.Module) -> nn.Module:
    """Fuse a model and make every ``DeepConv`` a plain convolution again, in place.

    The modules and names are those from before ``split_convs``, but each of the convolutions
    has a bias. What cannot be fused raises UserError, and nothing has been changed then.
    """
    fuse(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DeepConv):
                setattr(module, name, carry_over(child, child.conv))
    return model
