"""Deep training for any net: a convolution that is two while it is trained."""

import torch
from torch import Tensor, nn

from ..errors import UserError
from .deep_training import DeepTraining, deep_training_act
from .layers import build_norm
from .reparam import carry_over, chain, check_norm, fold_conv_norm, fuse, set_parameters

SPLITTABLE = (nn.Conv2d,)  # subclasses may compute something else


class DeepConv(DeepTraining):
    """A convolution split into two, ``conv2(act(norm(conv1(x))))``, with a 1x1 one as the second.

    ``act`` is the activation that ``DeepTrainingHook`` anneals away (paper, section 3.1); fused, it
    is one convolution again, exact up to the border. The net's own norm and activation follow it
    where they followed the convolution. As in VanillaNet the two have the input's channels between
    them where the kernel is 1x1, and otherwise the output's. In eval mode the split itself changes
    nothing: one of the two begins as the convolution that it was, the other as the identity.

    Args:
        conv: The convolution: (N, C_in, H, W) to (N, C_out, H', W'), of any kernel, stride and
            padding, but in one group and not dilated.
        norm_cfg: Config of the norm between the two, a batch norm if it is to be fused; None for
            none.

    Raises:
        UserError: If it cannot be split.
    """

    def __init__(self, conv: nn.Conv2d, norm_cfg: dict | None = dict(type='BN')) -> None:  # noqa: B006 - read, never written
        super().__init__()
        reason = unfit(conv)
        if reason:
            raise UserError(
                f'{conv} cannot be trained deep: it {reason}, expected an nn.Conv2d of one group '
                'without dilation; leave it as it is'
            )
        pointwise = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), 'valid', 'same')
        between = conv.in_channels if pointwise else conv.out_channels
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
            # A fresh batch norm divides by sqrt(1 + eps).
            self.conv2.weight.mul_((1 + getattr(self.norm, 'eps', 0)) ** 0.5)
            self.conv2.bias.zero_()
            if conv.bias is not None:
                self.conv2.bias.copy_(conv.bias)
        self.deploy = False
        self.add_act_learn()
        self.to(conv.weight.device, conv.weight.dtype)
        self.requires_grad_(conv.weight.requires_grad)
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        if self.deploy:
            return self.conv(x)
        return self.conv2(deep_training_act(self.norm(self.conv1(x)), self.act_learn))

    def check_fusable(self, name: str = '') -> None:
        """Check that the two can be fused; in deploy form they need nothing.

        Args:
            name: Its name in the model, for the message.

        Raises:
            UserError: If ``act_learn`` is not 1, or the statistics of the norm are unusable.
        """
        super().check_fusable(name)
        if not self.deploy and not isinstance(self.norm, nn.Identity):
            check_norm(self.norm, f'{name}.norm' if name else 'norm')

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fuse into one convolution, ``conv``, with a bias: outputs in eval mode stay the same.

        Raises:
            UserError: If ``act_learn`` is not 1, or the statistics of the norm are unusable.
        """
        if self.deploy:
            return
        self.check_fusable()
        first, second = self.conv1, self.conv2
        pair = [(conv.weight.double(), conv.bias.double()) for conv in (first, second)]
        if not isinstance(self.norm, nn.Identity):
            pair[0] = fold_conv_norm([first, self.norm])
        weight, bias = chain(*pair)
        with torch.device('meta'):
            conv = nn.Conv2d(
                first.in_channels,
                second.out_channels,
                first.kernel_size,
                first.stride,
                first.padding,
                padding_mode=first.padding_mode,
            )
        set_parameters(conv, first.weight, weight=weight, bias=bias)
        conv.train(self.training)
        del self.conv1, self.norm, self.conv2, self._act_learn
        self.conv, self.deploy = conv, True


def unfit(conv: nn.Module) -> str | None:
    """Return why a layer cannot be split in two, None if it can."""
    if type(conv) not in SPLITTABLE:
        return f'is a {type(conv).__name__}'
    if conv.groups > 1:
        return f'has {conv.groups} groups'
    if set(conv.dilation) != {1}:
        return f'has a dilation of {conv.dilation}'
    return None


def split_convs(model: nn.Module, norm_cfg: dict | None = dict(type='BN')) -> nn.Module:  # noqa: B006 - read, never written
    """Make every convolution of a model that can be split a :class:`DeepConv`, in place.

    What is trained deep already, such as a VanillaNet, stays, and so do grouped, dilated and
    transposed convolutions.

    Args:
        model: The model, such as a backbone.
        norm_cfg: Config of the norms between, None for none.

    Returns:
        The model itself.
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
    """Fuse a model and make every :class:`DeepConv` a plain convolution again, in place.

    The model's modules and names are those from before :func:`split_convs`, but that each of the
    convolutions has a bias.

    Raises:
        UserError: If something cannot be fused; nothing has been changed then.
    """
    fuse(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DeepConv):
                setattr(module, name, carry_over(child, child.conv))
    return model
