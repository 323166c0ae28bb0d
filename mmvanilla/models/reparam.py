"""Structural re-parameterisation: a training form becomes a deploy form that computes the same.

Everything is computed in float64 and kept, contiguous, in the weights' own type: a fused weight
that is a transposed view makes the net slower than one that is built in deploy form.
"""

from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..backports import is_compiling
from ..errors import UserError


class Reparameterizable(nn.Module):
    """Base class of modules that can be fused.

    With ``deploy`` set a module is in deploy form. In training form it may have a fused ``twin``,
    which computes for it in eval mode, see ``twins.add_twins``.
    """

    deploy: bool = False
    twin = None  # type: Any # torch.jit.script would read an annotation
    __constants__ = ('deploy',)  # so that torch.jit.script compiles the form there is

    def train(self, mode: bool = True) -> 'Reparameterizable':
        """Switch the mode; training drops the twin."""
        if mode:
            self.drop_twin()
        return super().train(mode)

    def drop_twin(self) -> None:
        """Compute with the module's own weights again."""
        self.__dict__.pop('twin', None)

    def __getstate__(self) -> dict:
        """Leave the twin out of copies and pickles."""
        return {name: v for name, v in super().__getstate__().items() if name != 'twin'}

    def _load_from_state_dict(self, *args: Any) -> None:
        self.drop_twin()
        super()._load_from_state_dict(*args)

    def reparameterize(self, name: str = '') -> Callable[[], None]:
        """Check and compute the deploy form; return what then takes it on, and cannot fail.

        UserError names, by ``name`` in the model, what stands in the way.
        """
        raise NotImplementedError

    def switch_to_deploy(self) -> None:
        """Fuse this and all within it, see ``fuse``."""
        fuse(self)


@torch.no_grad()
def fuse(model: nn.Module, neck_and_heads: bool = False) -> nn.Module:
    """Fuse every re-parameterisable module of a model in place; outputs in eval mode stay the same.

    Each module stays itself, so that its hooks, train and gradient flags survive.

    Args:
        model: A detector, segmentor or classifier, a backbone alone, or what wraps one: DDP, an
            averaged copy, a ``ModuleList`` of several.
        neck_and_heads: Fold the batch norms of all ``ConvModule`` into their convolutions as well.
            Such a model's weights no longer fit its config.

    Returns:
        The model itself. A second call changes nothing.

    Raises:
        UserError: If a net is half trained, a batch norm cannot be folded or weights are meta or
            fake tensors; nothing has changed.
    """
    switches = deploy_switches(model)
    if neck_and_heads:
        switches += [fold_module(module, name) for name, module in foldable_modules(model).items()]
    for switch in switches:
        switch()
    return model


def deploy_switches(model: nn.Module, prefix: str = '') -> list[Callable[[], None]]:
    """Compute the deploy form of every module in training form; return what puts it in place.

    ``prefix`` is the model's name, for messages. Errors are those of ``fuse``.
    """
    for module in model.modules():
        for hook in _weight_hooks(module).values():
            hook(module, ())  # else the weight would be that of the last forward pass
    return [
        _with_values(module, name).reparameterize(name)
        for name, module in model.named_modules(prefix=prefix)
        if isinstance(module, Reparameterizable) and not module.deploy
    ]


def uses_twin(module: Reparameterizable) -> bool:
    """Return whether a module's twin computes for it; compiled code outlives twins."""
    return not is_compiling() and not module.training and module.twin is not None


def _with_values(module: Reparameterizable, name: str) -> Reparameterizable:
    """Return a module, or raise UserError if its weights are meta or fake tensors."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.untyped_storage().device.type == 'meta':  # so is that of a fake tensor
            raise UserError(
                f'the weights of {name or type(module).__name__} are meta or fake tensors, which '
                'have no values to fuse; load weights first, or build with deploy=True'
            )
    return module


def _weight_hooks(module: nn.Module) -> dict[int, Any]:
    """Return, by id, the hooks that compute a weight before each forward pass: pruning, old norms.

    torch has no public list of them.
    """
    kinds = (BasePruningMethod, WeightNorm, SpectralNorm)
    return {key: h for key, h in module._forward_pre_hooks.items() if isinstance(h, kinds)}


def free_weight(module: nn.Module) -> None:
    """Make the weight of a module a parameter again, of whatever it is computed."""
    if parametrize.is_parametrized(module, 'weight'):
        parametrize.remove_parametrizations(module, 'weight')
    for key, hook in _weight_hooks(module).items():
        hook.remove(module)
        del module._forward_pre_hooks[key]


def fold_bn(norm: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Return a batch norm at inference as the scale and shift (C,) of its channels, in float64.

    What is no batch norm, or has unusable statistics, raises a UserError with its name.
    """
    if not isinstance(norm, _BatchNorm):
        reason = f'is a {type(norm).__name__}, expected a batch norm'
    elif norm.running_mean is None:
        reason = 'keeps no running statistics; set track_running_stats=True and train'
    elif not (norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()):
        reason = 'has running statistics that are not finite; use an earlier checkpoint'
    elif (norm.running_var < 0).any():
        least = norm.running_var.min().item()
        reason = (
            f'has a running variance of {least:g}, expected none below 0; use another checkpoint'
        )
    # The counter alone does not tell: published weights may come without it.
    elif not (norm.num_batches_tracked or norm.running_mean.any() or (norm.running_var != 1).any()):
        reason = 'has never seen a batch; load trained weights first, or build with deploy=True'
    else:
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        return scale, shift if norm.bias is None else shift + norm.bias.double()
    raise UserError(f'{name} cannot be fused: it {reason}')


def fold(conv: nn.Conv2d, norm: nn.Module | None, name: str = '') -> tuple[Tensor, Tensor]:
    """Return weight (C_out, C_in, k, k) and bias of a convolution with its norm, in float64.

    ``norm`` is the batch norm after it, which has ``name``, or None or an ``nn.Identity``.
    """
    weight = conv.weight.double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
    if norm is None or isinstance(norm, nn.Identity):
        return weight, bias
    scale, shift = fold_bn(norm, name)
    return weight * scale[:, None, None, None], bias * scale + shift


def merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution and the 1x1 convolution after it, as one.

    Both are weight and bias: (C_mid, C_in, k, k) of the first, (C_out, C_mid, 1, 1) of the second.
    """
    (weight1, bias1), (weight2, bias2) = first, second
    matrix = weight2.flatten(1)
    weight = (matrix @ weight1.flatten(1)).view(-1, *weight1.shape[1:])
    return weight, matrix @ bias1 + bias2


def conv_like(conv: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    """Build a convolution of the geometry of another, with a bias."""
    names = ('kernel_size', 'stride', 'padding', 'padding_mode')
    geometry: dict[str, Any] = {name: getattr(conv, name) for name in names}
    return nn.Conv2d(in_channels, out_channels, **geometry)


def plain_conv(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Build a convolution with these weights; the other may be pruned or parametrized."""
    with torch.device('meta'):  # no random numbers are drawn, no memory is taken
        conv = conv_like(like, weight.shape[1], len(weight))
    conv.weight, conv.bias = parameters_like(like.weight, weight, bias)
    return conv.train(like.training)


def parameters_like(like: Tensor, *values: Tensor) -> list[nn.Parameter]:
    """Make parameters of another's type, which must hold the values, device and gradient flag."""
    made = []
    for value in values:
        value = value.detach().to(like.device, like.dtype, copy=True).contiguous()
        if not value.isfinite().all():
            raise UserError(
                f'fused weights do not fit {like.dtype}; fuse in float32 and convert the result'
            )
        made.append(nn.Parameter(value, requires_grad=like.requires_grad))
    return made


def foldable_modules(model: nn.Module) -> dict[str, ConvModule]:
    """Return the ConvModules whose norm directly follows a convolution that is theirs alone."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ConvModule)
        and module.with_norm
        and isinstance(module.norm, _BatchNorm)
        and type(module.conv) is nn.Conv2d  # others may compute their weight
        and isinstance(module.conv.weight, nn.Parameter)
        and module.order.index('norm') == module.order.index('conv') + 1
    }
    convs = [id(module.conv) for module in found.values()]
    return {name: module for name, module in found.items() if convs.count(id(module.conv)) == 1}


def fold_module(module: ConvModule, name: str) -> Callable[[], None]:
    """Fold the batch norm of a ConvModule; return what puts the result in place."""
    folded = fold(module.conv, module.norm, f'{name}.{module.norm_name}')
    fused = parameters_like(module.conv.weight, *folded)

    def switch() -> None:
        module.conv.weight, module.conv.bias = fused
        setattr(module, module.norm_name, nn.Identity())

    return switch


def carry_over(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give a module the hooks and the train flag of the one whose place it takes."""
    for name, value in vars(old).items():  # torch has no public way to hand hooks on
        if name.endswith(('_hooks', '_hooks_with_kwargs', '_hooks_always_called')):
            vars(new)[name] = value  # the same dict, so that handles still remove their hook
    return new.train(old.training)
