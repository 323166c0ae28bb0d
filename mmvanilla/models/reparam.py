"""Fusion: turning the training form of VanillaNet into its deploy form, exactly.

Everything is computed in float64 and written back, contiguous, in the weights' own type: a fused
weight that is a transposed view makes the net slower than one built in deploy form.
"""

from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UserError
from .deep_training import DeepTraining


def fuse(model: nn.Module, neck_and_heads: bool = False) -> nn.Module:
    """Bring every VanillaNet, and all else that has a deploy form, into it, in place.

    That is what is trained deep, and series activations within other modules; one that is the model
    itself has a ``fuse`` of its own.

    Args:
        model: A detector, segmentor or classifier, a backbone alone, or what wraps one: DDP, an
            averaged copy, a ``ModuleList`` of several.
        neck_and_heads: Fold the batch norms of all ``ConvModule`` into their convolutions as well.
            Such a model's weights no longer fit its config.

    Returns:
        The model itself. A second call changes nothing.

    Raises:
        UserError: If a net is not trained to the end or a batch norm cannot be folded; nothing has
            been changed then.
    """
    from .layers import SeriesActivation  # which itself needs this module

    trained = {n: module for n, module in model.named_modules() if isinstance(module, DeepTraining)}
    for name, module in trained.items():
        module.check_fusable(name)
    for name, module in model.named_modules():
        if isinstance(module, SeriesActivation) and module.bias is None:
            check_norm(module.bn, f'{name}.bn' if name else 'bn')
    modules = foldable_modules(model) if neck_and_heads else {}
    for name, module in modules.items():
        check_norm(module.norm, f'{name}.{module.norm_name}')
    for module in trained.values():
        module.switch_to_deploy()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, SeriesActivation):
                setattr(module, name, child.fuse())
    for module in modules.values():
        fold_module(module)
    return model


def check_norm(norm: nn.Module, name: str) -> None:
    """Check that a norm layer can be folded into a convolution before it.

    Raises:
        UserError: If it is no batch norm, or its running statistics are unusable.
    """
    reason = None
    if not isinstance(norm, _BatchNorm):
        reason = f'is a {type(norm).__name__}, expected a batch norm'
    elif norm.running_mean is None:
        reason = 'keeps no running statistics; set track_running_stats=True and train'
    elif not (norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()):
        reason = 'has running statistics that are not finite; use an earlier checkpoint'
    elif (norm.running_var < 0).any():
        reason = (
            f'has a running variance of {norm.running_var.min().item():g}, expected none below 0; '
            'use another checkpoint'
        )
    # The counter alone does not tell: published weights may come without it.
    elif (
        not norm.num_batches_tracked
        and not norm.running_mean.any()
        and (norm.running_var == 1).all()
    ):
        reason = 'has never seen a batch; load trained weights first, or build with deploy=True'
    if reason:
        raise UserError(f'{name} cannot be fused: it {reason}')


def fold_norm(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return a batch norm at inference as the scale and shift of every channel, in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift


def fold_conv_norm(conv_norm: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Return weight (C_out, C_in, k, k) and bias of a convolution with its norm, in float64."""
    conv, norm = conv_norm[0], conv_norm[1]
    scale, shift = fold_norm(norm)
    return conv.weight.double() * scale[:, None, None, None], conv.bias.double() * scale + shift


def chain(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution followed by a 1x1 convolution, as one.

    Args:
        first: Weight (C_mid, C_in, k, k) and bias of the first.
        second: Weight (C_out, C_mid, 1, 1) and bias of the second.
    """
    (weight1, bias1), (weight2, bias2) = first, second
    matrix = weight2.flatten(1)
    weight = (matrix @ weight1.flatten(1)).view(-1, *weight1.shape[1:])
    return weight, matrix @ bias1 + bias2


def set_parameters(module: nn.Module, like: Tensor, **values: Tensor) -> None:
    """Give a module parameters of the type, device and gradient flag of another.

    Raises:
        UserError: If a value does not fit that type.
    """
    for name, value in values.items():
        value = value.detach().to(like.device, like.dtype, copy=True).contiguous()
        if not value.isfinite().all():
            raise UserError(
                f'fused weights do not fit {like.dtype}; fuse in float32 and convert the result'
            )
        setattr(module, name, nn.Parameter(value, requires_grad=like.requires_grad))


def carry_over(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give a module the hooks and the train flag of the one whose place it takes."""
    for name, value in vars(old).items():
        if name.endswith(('_hooks', '_hooks_with_kwargs', '_hooks_always_called')):
            vars(new)[name] = value  # the same dict, so that handles still remove their hook
    new.train(old.training)
    return new


def foldable_modules(model: nn.Module) -> dict[str, ConvModule]:
    """Return the ConvModules whose norm directly follows a convolution that is theirs alone."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ConvModule)
        and module.with_norm
        and isinstance(module.norm, _BatchNorm)
        and isinstance(module.conv, nn.Conv2d)
        and module.order.index('norm') == module.order.index('conv') + 1
    }
    convs = [id(module.conv) for module in found.values()]
    return {name: module for name, module in found.items() if convs.count(id(module.conv)) == 1}


def fold_module(module: ConvModule) -> None:
    """Fold the batch norm of a ConvModule into its convolution, in place."""
    training = module.conv.training
    module.conv = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval()).train(training)
    setattr(module, module.norm_name, nn.Identity())
