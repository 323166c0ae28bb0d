"""Structural re-parameterization: a training form becomes a deploy form with the same outputs.

Fused weights are computed in float64 and stored, contiguous, in the dtype of the weights: with
transposed views a fused net is slower than one that is built in deploy form.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_weights

from ..backports import is_compiling
from ..copies import has_hooks, same_outputs, weight_hooks
from ..errors import UserError


class Reparameterizable(nn.Module):
    """Base class of modules that can be fused.

    ``deploy`` is True in deploy form. In training form a module may have a fused ``twin``, which
    computes in its place in eval mode, as in a validation; compiled code never uses it.
    """

    deploy: bool = False
    twin = None  # type: Any # torch.jit.script would read an annotation
    __constants__ = ('deploy',)  # torch.jit.script compiles only the branch of this form

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, by the twin if there is one."""
        if is_compiling() or self.training or self.twin is None:
            return super().__call__(*args, **kwargs)
        return self.twin(*args, **kwargs)

    def train(self, mode: bool = True) -> 'Reparameterizable':
        """Switch the mode; training drops the twin."""
        if mode:
            self.drop_twin()
        return super().train(mode)

    def drop_twin(self) -> None:
        """Remove the twin."""
        self.__dict__.pop('twin', None)

    def __getstate__(self) -> dict:
        """Leave the twin out of copies and pickles."""
        return {name: value for name, value in vars(self).items() if name != 'twin'}

    def _load_from_state_dict(self, *args: Any) -> None:
        self.drop_twin()
        super()._load_from_state_dict(*args)

    def reparameterize(self, prefix: str = '') -> Callable[[], None]:
        """Compute the deploy form; return a function that switches to it and cannot fail.

        Args:
            prefix: Name of the module in the model, with a dot at the end, for messages.

        Raises:
            UserError: If the module cannot be fused.
        """
        raise NotImplementedError

    def become(self, old: Sequence[str], **new: nn.Module) -> None:
        """Switch to the deploy form: replace old children by new ones, in their order."""
        for name in old:
            delattr(self, name)
        for name, child in new.items():
            setattr(self, name, child)
        self.deploy = True

    def switch_to_deploy(self) -> None:
        """Fuse this module and all modules in it, see ``fuse``."""
        fuse(self)


@torch.no_grad()
def fuse(model: nn.Module, neck_and_heads: bool = False) -> nn.Module:
    """Fuse every re-parameterizable module of a model in place, with the same outputs in eval mode.

    Train flags and gradient flags stay, and so do the hooks of the net, its stages and activations.
    Hooks of the layers that are fused away must not change outputs: they run once, on random
    numbers.

    Args:
        model: A detector, segmentor, classifier or backbone, or modules that contain one: DDP, an
            averaged copy, a ``ModuleList``.
        neck_and_heads: Also fold the batch norms of all ``ConvModule`` into their convolutions.
            The weights of such a model no longer fit its config.

    Returns:
        The model itself. A second call changes nothing.

    Raises:
        UserError: If deep training is not over, layers compute more than convolutions and batch
            norms (adapters, subclasses, added modules, hooks), a batch norm cannot be folded, or
            weights are meta or fake tensors; nothing has changed.
    """
    switches = deploy_switches(model)
    if neck_and_heads:
        switches += [fold_module(module, name) for name, module in foldable_modules(model).items()]
    for switch in switches:
        switch()
    return model


def deploy_switches(model: nn.Module, model_name: str = '') -> list[Callable[[], None]]:
    """Compute the deploy form of every module; return the functions that switch to them.

    ``model_name`` is for messages. Errors are those of ``fuse``.
    """
    for module in model.modules():
        for hook in weight_hooks(module).values():
            hook(module, ())  # update the weight, which is from the last forward pass
    switches = []
    for name, module in model.named_modules(prefix=model_name):
        if isinstance(module, Reparameterizable) and not module.deploy:
            storages = [tensor.untyped_storage() for tensor in module.state_dict().values()]
            if any(storage.device.type == 'meta' for storage in storages):  # also of fake tensors
                raise UserError(
                    f'the weights of {name or type(module).__name__} are meta or fake tensors, '
                    'which have no values to fuse; load weights first, or build with deploy=True'
                )
            switches.append(module.reparameterize(f'{name}.'.lstrip('.')))
    return switches


def merge(layers: dict[str, nn.Module], old: nn.Module) -> nn.Conv2d:
    """Merge layers in a row into one convolution with geometry, dtype and flags of the first.

    Args:
        layers: A convolution, then batch norms and 1x1 convolutions, by their names in the model.
        old: The module that computes these layers; its hooks run once, on random numbers.

    Raises:
        UserError: If ``old`` computes anything else.
    """
    (name, like), *others = layers.items()
    if not isinstance(like, nn.Conv2d):
        raise _not_fused(name, f'it is a {_full_name(like)}, expected an nn.Conv2d')
    weight, bias = like.weight.double(), _bias(like)
    for name, layer in others:
        if isinstance(layer, _BatchNorm):
            check_bn(layer, name)
            mean, var = layer.running_mean.double(), layer.running_var.double()
            affine = layer.eps, layer.weight, layer.bias
            weight, bias = fuse_conv_bn_weights(weight, bias, mean, var, *affine)
        elif isinstance(layer, nn.Conv2d) and layer.weight.shape[1:] == (len(weight), 1, 1):
            matrix = layer.weight.double().flatten(1)
            weight = (matrix @ weight.flatten(1)).view(-1, *weight.shape[1:])
            bias = matrix @ bias + _bias(layer)
        elif not isinstance(layer, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            expected = 'a batch norm or a 1x1 nn.Conv2d'
            raise _not_fused(name, f'it is a {_full_name(layer)}, expected {expected}')
    names = ('kernel_size', 'stride', 'padding', 'dilation', 'groups', 'padding_mode')
    geometry: dict[str, Any] = {name: getattr(like, name) for name in names}
    conv = nn.Conv2d(like.in_channels, len(weight), device='meta', **geometry)
    fused = parameters_like(like.weight, weight, bias)
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)  # exact
    side = 2 * max(like.kernel_size) * max(like.dilation)
    if not same_outputs(old, conv, like.in_channels, side):
        raise _not_fused(f'{next(iter(layers))} to {name}', 'its outputs would change')
    conv.weight, conv.bias = fused
    return conv.train(like.training)


def _bias(conv: nn.Conv2d) -> Tensor:
    none = conv.weight.new_zeros(conv.out_channels)
    return (none if conv.bias is None else conv.bias).double()


def _full_name(module: nn.Module) -> str:
    return f'{type(module).__module__}.{type(module).__qualname__}'


def _not_fused(name: str, reason: str) -> UserError:
    return UserError(
        f'{name} cannot be fused: {reason}; merge adapters, in PEFT by merge_and_unload(), and '
        'remove added modules, subclasses and hooks'
    )


def check_bn(norm: nn.Module, name: str) -> None:
    """Raise UserError unless a batch norm has usable statistics."""
    if norm.running_mean is None:
        reason = 'keeps no running statistics; set track_running_stats=True and train'
    elif not (norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()):
        reason = 'has running statistics that are not finite; use an earlier checkpoint'
    elif (norm.running_var < 0).any():
        minimum = norm.running_var.min().item()
        reason = (
            f'has a running variance of {minimum:g}, expected none below 0; use another checkpoint'
        )
    # The counter alone is not enough: published weights may have none.
    elif not (norm.num_batches_tracked or norm.running_mean.any() or (norm.running_var != 1).any()):
        reason = 'has never seen a batch; load trained weights first, or build with deploy=True'
    else:
        return
    raise UserError(f'{name} cannot be fused: it {reason}')


def children(prefix: str, **layers: nn.Module) -> dict[str, nn.Module]:
    """Return the children of layers by their names in the model."""
    return {
        f'{prefix}{name}.{child_name}': child
        for name, layer in layers.items()
        for child_name, child in layer.named_children()
    }


def parameters_like(like: Tensor, *values: Tensor) -> list[nn.Parameter]:
    """Make parameters with the dtype, device and gradient flag of another.

    Raises:
        UserError: If a value overflows the dtype.
    """
    parameters = []
    for value in values:
        value = value.detach().to(like.device, like.dtype, copy=True).contiguous()
        if not value.isfinite().all():
            raise UserError(
                f'fused weights do not fit {like.dtype}; fuse in float32 and convert the result'
            )
        parameters.append(nn.Parameter(value, requires_grad=like.requires_grad))
    return parameters


def foldable_modules(model: nn.Module) -> dict[str, ConvModule]:
    """Return the ConvModules with a batch norm directly after a convolution of their own."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ConvModule)
        and module.with_norm
        and isinstance(module.norm, _BatchNorm)
        and type(module.conv) is nn.Conv2d  # subclasses may compute their weight
        and isinstance(module.conv.weight, nn.Parameter)
        and module.order.index('norm') == module.order.index('conv') + 1
        and not (has_hooks(module.conv) or has_hooks(module.norm))
    }
    convs = [id(module.conv) for module in found.values()]
    return {name: module for name, module in found.items() if convs.count(id(module.conv)) == 1}


def fold_module(module: ConvModule, name: str) -> Callable[[], None]:
    """Compute a ConvModule without its batch norm; return a function that switches to it."""
    layers = {f'{name}.conv': module.conv, f'{name}.{module.norm_name}': module.norm}
    fused = merge(layers, nn.Sequential(module.conv, module.norm))

    def switch() -> None:
        module.conv.weight, module.conv.bias = fused.weight, fused.bias
        setattr(module, module.norm_name, nn.Identity())

    return switch
