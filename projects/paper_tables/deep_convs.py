"""Deep training (paper, section 3.1) for the convolutions of any net."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmvanilla import UserError, fuse
from mmvanilla.models.conv_norm import build_norm
from mmvanilla.models.deep_training import DeepTraining, anneal
from mmvanilla.models.reparam import merge


class DeepConv(DeepTraining):
    """A convolution split into two: ``conv2(anneal(norm(conv1(x))))``, with a 1x1 ``conv2``.

    Fusing makes it one convolution again. As in VanillaNet the two have the input's channels
    between them if the kernel is 1x1, otherwise the output's. In eval mode the split changes no
    output: one of the two starts as the given convolution, the other as the identity.

    Args:
        conv: The convolution, of any kernel, stride and padding, in one group and not dilated.
        norm_cfg: Config of the norm between the two, a batch norm if it is to be fused, or None.

    Raises:
        UserError: If the convolution cannot be split.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006 - read, never written
    ) -> None:
        super().__init__()
        if reason := why_not(conv):
            raise UserError(
                f'{conv} cannot be trained deep: it {reason}, expected an nn.Conv2d of one group '
                'without dilation; leave it as it is'
            )
        pointwise = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), 'valid', 'same')
        between = conv.in_channels if pointwise else conv.out_channels
        with torch.device(conv.weight.device):
            self.conv1 = nn.Conv2d(
                conv.in_channels,
                between,
                conv.kernel_size,
                conv.stride,
                conv.padding,
                padding_mode=conv.padding_mode,
            )
            self.norm = build_norm(norm_cfg, between) if norm_cfg else nn.Identity()
            self.conv2 = nn.Conv2d(between, conv.out_channels, 1)
            identity, original = (self.conv1, self.conv2) if pointwise else (self.conv2, self.conv1)
            with torch.no_grad():
                nn.init.dirac_(identity.weight)
                original.weight.copy_(conv.weight)
                self.conv1.bias.zero_()
                # A new batch norm divides by sqrt(1 + eps).
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
        return self.conv2(anneal(self.norm(self.conv1(x)), self.slope_for(x)))

    def __prepare_scriptable__(self) -> DeepTraining:
        """Let torch.jit.script compile the deploy form."""
        return self if self.deploy else super().__prepare_scriptable__()

    def reparameterize(self, prefix: str = '') -> Callable[[], None]:
        """Compute the one convolution, ``conv``, with a bias; see ``Reparameterizable``."""
        self.check_act_learn(prefix)
        layers = {f'{prefix}{name}': layer for name, layer in self.named_children()}
        conv = merge(layers, nn.Sequential(self.conv1, self.norm, self.conv2))
        return lambda: self.become(['conv1', 'norm', 'conv2'], conv=conv)


def why_not(conv: nn.Module) -> str | None:
    """Return the reason against splitting a layer in two, None if it can be split."""
    if type(conv) is not nn.Conv2d:  # subclasses may compute something else
        return f'is a {type(conv).__name__}'
    if not isinstance(conv.weight, nn.Parameter) or 'forward' in vars(conv):
        return 'is pruned, normalized or patched'
    if conv.groups > 1:
        return f'has {conv.groups} groups'
    if set(conv.dilation) != {1}:
        return f'has a dilation of {conv.dilation}'
    return None


def split_convs(model: nn.Module, norm_cfg: dict | None = dict(type='BN')) -> nn.Module:  # noqa: B006 - read, never written
    """Replace each convolution of a model by a ``DeepConv``, in place; return the model.

    Modules with deep training stay, and so do grouped, dilated and transposed convolutions.
    ``norm_cfg`` is that of ``DeepConv``.
    """
    deep = [module for module in model.modules() if isinstance(module, DeepTraining)]
    inside = {id(module) for owner in deep for module in owner.modules()}
    split: dict[int, nn.Module] = {}  # a convolution that modules share stays shared
    for name, conv in list(model.named_modules(remove_duplicate=False)):
        if not name or id(conv) in inside or why_not(conv):
            continue
        if id(conv) not in split:
            split[id(conv)] = carry_over(conv, DeepConv(conv, norm_cfg))
        owner, _, child = name.rpartition('.')
        setattr(model.get_submodule(owner), child, split[id(conv)])
    return model


def join_convs(model: nn.Module) -> nn.Module:
    """Fuse a model and replace each ``DeepConv`` by its convolution, in place; return the model.

    Modules and names are those from before ``split_convs``, and every convolution has a bias.

    Raises:
        UserError: If a module cannot be fused; nothing has changed.
    """
    fuse(model)
    for name, deep in list(model.named_modules(remove_duplicate=False)):
        if name and isinstance(deep, DeepConv):
            owner, _, child = name.rpartition('.')
            setattr(model.get_submodule(owner), child, carry_over(deep, deep.conv))
    return model


def carry_over(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give a module the hooks and the train flag of the module that it replaces."""
    for name, value in vars(old).items():  # torch has no public way to move hooks
        if name.endswith(('_hooks', '_hooks_with_kwargs', '_hooks_always_called')):
            vars(new)[name] = value  # the same dict, so that handles still remove their hook
    return new.train(old.training)
