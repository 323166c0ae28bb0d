"""VanillaNet, the backbone: its block, and the net as a loop over blocks.

Modules and parameters have the names of the published checkpoints. Reference: Chen et al.,
VanillaNet: the Power of Minimalism in Deep Learning, https://arxiv.org/abs/2305.12972.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backports import MaybeTensor, is_traced
from ..copies import alias
from ..errors import UserError, sentence
from ..installed import mmcv_is_compiled
from ..ops.depthwise_conv import channels_last
from ..ops.recompute import recompute
from ..safe_load import safe_loading
from .archs import MAX_ACT_NUM, check_bool, check_cfg, check_int, check_levels, parse_arch
from .conv_norm import build_conv, conv_norm
from .deep_training import DeepTraining, anneal
from .reparam import Reparameterizable, children, merge
from .series_activation import SeriesActivation
from .weights import fit, unwrapped_prefix

MMCV_IS_COMPILED = mmcv_is_compiled()
fx.wrap('anneal')  # symbolic tracing of a block keeps the call: its slope may be None


class AdaptivePool(nn.Module):
    """Max-pool (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)), adaptively.

    The ``ada`` variant pools 75 x 75 to 38, 19 and 10; this extends it to any size.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W)."""
        height, width = x.shape[-2:]
        # Integer arithmetic, which tracers record for other sizes.
        size = ((height + self.stride - 1) // self.stride, (width + self.stride - 1) // self.stride)
        return F.adaptive_max_pool2d(x, size)


class Block(Reparameterizable):
    """Two 1x1 convolutions, in deploy form one, then a max-pool and a series activation.

    A block maps (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), without a pool
    at stride 1. Other arguments are those of ``VanillaNet``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        act_num: int,
        norm_cfg: dict,
        ada_pool: bool = False,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        self.deploy = deploy
        if deploy:
            self.conv = build_conv(in_channels, out_channels)
        else:
            self.conv1 = conv_norm(in_channels, in_channels, norm_cfg)
            self.conv2 = conv_norm(in_channels, out_channels, norm_cfg)
        pool = AdaptivePool if ada_pool else nn.MaxPool2d
        self.pool = pool(stride) if stride > 1 else nn.Identity()
        self.act = SeriesActivation(out_channels, act_num, norm_cfg, deploy)

    def forward(self, x: Tensor, slope: MaybeTensor = None) -> Tensor:
        """Compute the block; ``slope`` is for ``anneal`` between the two convolutions."""
        x = self.conv(x) if self.deploy else self.conv2(anneal(self.conv1(x), slope))
        return self.act(self.pool(x))

    def reparameterize(self, prefix: str = '') -> Callable[[], None]:
        """Merge both convolutions into one; see ``Reparameterizable``."""
        layers = children(prefix, conv1=self.conv1, conv2=self.conv2)
        conv = merge(layers, nn.Sequential(self.conv1, self.conv2))
        new = dict(conv=conv, pool=self.pool, act=self.act)
        return lambda: self.become(['conv1', 'conv2', 'pool', 'act'], **new)


@fx.wrap
def fast_layout(x: Tensor) -> Tensor:
    """Return (N, C, H, W) in the fastest layout of its device.

    Depthwise convolutions on CPUs are several times faster channels-last, above all backward.
    """
    return channels_last(x) if x.device.type == 'cpu' else x


@fx.wrap
def contiguous_for_mmcv(x: Tensor) -> Tensor:
    """Return contiguous features (N, C, H, W) if mmcv is compiled: its RoIAlign ignores strides.

    Without it features keep their layout: on a CPU a copy takes 4 to 13 % of the backbone's time.
    """
    return x.contiguous() if MMCV_IS_COMPILED else x


@MODELS.register_module()
class VanillaNet(DeepTraining, BaseModule):
    """VanillaNet, a backbone of plain convolutions (https://arxiv.org/abs/2305.12972).

    Args:
        arch: '5' ... '13', '13-x1.5' or '13-x1.5-ada' (or an int such as 13), or a dict with
            ``dims``, ``strides`` and ``ada_pool`` for another net; see ``parse_arch``.
        out_indices: The resolution levels to return, ascending. Level 0, 1, 2, 3 is the last output
            at stride 4, 8, 16, 32 (3, 6, 12, 24 with ``ada_pool``). Level 0 of the nets of depth 5
            and 6 is the output of the stem. Stages after the last level are not built, and
            checkpoints of the whole net load without them.
        act_num: Half the width n of the series activation's (2n + 1) x (2n + 1) window: 3 in the
            published ImageNet nets, 4 in the published detectors.
        in_channels: Channels of the input image.
        norm_cfg: Config of the norm layers; ``eps`` is 1e-6 unless given.
        frozen_stages: -1 trains everything, 0 freezes the stem, k freezes the stem and every stage
            up to the output of level k - 1, as in ResNet.
        norm_eval: Keep the statistics of batch norms during training.
        with_cp: Save memory in training: store the outputs of the 1x1 convolutions and recompute
            the other, cheap operators in the backward pass.
        deploy: Build the deploy form: one convolution per layer and no norm.
        init_cfg: Config of the initialization; None keeps Kaiming's random weights.

    Raises:
        UserError: If an argument is out of its range.

    Examples:
        >>> net = VanillaNet('13', act_num=4)
        >>> [tuple(f.shape) for f in net(torch.rand(1, 3, 64, 96))]
        [(1, 512, 16, 24), (1, 1024, 8, 12), (1, 2048, 4, 6), (1, 4096, 2, 3)]
    """

    # Whether a loaded checkpoint had weights for this net; None if none was loaded.
    weights_loaded: bool | None = None

    def __init__(
        self,
        arch: str | int | dict = '13',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        act_num: int = 3,
        in_channels: int = 3,
        norm_cfg: dict = dict(type='BN', eps=1e-6),  # noqa: B006 - read, never written
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(unwrapped_prefix(init_cfg))
        self.arch = parse_arch(arch)
        dims, strides, ada_pool = self.arch.values()
        # The stage with the last output of each resolution; -1 is the stem.
        ends = [i - 1 for i, stride in enumerate(strides) if stride > 1] + [len(strides) - 1]
        check_levels(out_indices, frozen_stages, len(ends))
        check_int('act_num', act_num, 0, MAX_ACT_NUM)
        check_int('in_channels', in_channels, 1)
        check_cfg('norm_cfg', norm_cfg)
        for name, flag in dict(norm_eval=norm_eval, with_cp=with_cp, deploy=deploy).items():
            check_bool(name, flag)
        self.out_indices = tuple(out_indices)
        self.out_stages = tuple(ends[level] for level in out_indices)
        self.out_channels = tuple(dims[i + 1] for i in self.out_stages)
        self.in_channels = in_channels
        stem = dict(kernel_size=4, **(dict(stride=3, padding=1) if ada_pool else dict(stride=4)))
        reductions = [stem['stride'] * math.prod(strides[:i]) for i in range(len(dims))]
        self.out_strides = tuple(reductions[i + 1] for i in self.out_stages)
        number = self.out_stages[-1] + 1  # of stages that are built
        self.min_size = reductions[number]
        self.frozen_stages = frozen_stages
        # How many of self.stages are frozen; -1 trains the stem, too.
        self.num_frozen = [-1, 0, *(end + 1 for end in ends)][frozen_stages + 1]
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.deploy = deploy

        norm_cfg = {'eps': 1e-6, **norm_cfg}
        act = SeriesActivation(dims[0], act_num, norm_cfg, deploy)
        if deploy:
            self.stem = nn.Sequential(build_conv(in_channels, dims[0], **stem), act)
        else:
            self.stem1 = conv_norm(in_channels, dims[0], norm_cfg, **stem)
            self.stem2 = conv_norm(dims[0], dims[0], norm_cfg).append(act)
            self.add_act_learn()
        self.stages = nn.ModuleList(
            Block(*channels, stride, act_num, norm_cfg, ada_pool, deploy)
            for channels, stride in zip(pairwise(dims[: number + 1]), strides[:number], strict=True)
        )
        self._freeze_stages()

    def init_weights(self) -> None:
        """Initialize by ``init_cfg``; no code in a checkpoint is run.

        Raises:
            UserError: If ``init_cfg`` cannot be applied or its checkpoint does not fit.
            FileNotFoundError: If its checkpoint is missing.
        """
        try:
            with safe_loading():
                super().init_weights()
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:  # mmengine's initializers raise errors of any type
            raise UserError(
                f'init_cfg is {self.init_cfg!r}, which cannot be applied '
                f'({type(error).__name__}: {sentence(error)}); use for example '
                "dict(type='Kaiming', layer='Conv2d')"
            ) from error

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self.weights_loaded = fit(state_dict, self, prefix) or self.weights_loaded or False
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the levels in ``out_indices``.

        Args:
            x: Images, (N, in_channels, H, W), H and W at least the stride of the last level.

        Returns:
            One tensor per level k, (N, out_channels[k], H / out_strides[k], W / out_strides[k]).

        Raises:
            UserError: If the images do not fit, or the deploy form is trained.
        """
        if not isinstance(x, fx.Proxy):  # symbolic tracing knows no shape
            self.check_input(x)
        x = fast_layout(x)
        run = recompute if self.with_cp and torch.is_grad_enabled() else nn.Module.__call__
        slope = self.slope_for(x)
        x = self.stem(x) if self.deploy else run(self.stem2, anneal(self.stem1(x), slope))
        outs = [contiguous_for_mmcv(x)] if -1 in self.out_stages else []
        for i, stage in enumerate(self.stages):
            x = run(stage, x) if slope is None else run(stage, x, slope)
            if i in self.out_stages:
                outs.append(contiguous_for_mmcv(x))
        return tuple(outs)

    def check_input(self, x: Tensor) -> None:
        """Raise UserError if images do not fit or a net in deploy form is trained."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(
                f'VanillaNet got an input of shape {tuple(x.shape)}, '
                f'expected (N, {self.in_channels}, H, W)'
            )
        if min(x.shape[-2:]) < self.min_size:
            raise UserError(
                f'VanillaNet got images of {x.shape[-2]} x {x.shape[-1]} pixels, smaller than its '
                f'stride of {self.min_size}; enlarge or pad them'
            )
        trains = self.deploy and self.training and torch.is_grad_enabled() and not is_traced()
        if trains and any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError(
                'VanillaNet is in deploy form, which has no batch norms and is not for training; '
                'train the training form (deploy=False), freeze this one (requires_grad_(False)) '
                'or call eval() to use it'
            )

    def reparameterize(self, prefix: str = '') -> Callable[[], None]:
        """Merge both convolutions of the stem into one; the blocks have their own method."""
        self.check_act_learn(prefix)
        layers = children(prefix, stem1=self.stem1, stem2=self.stem2[:2])
        stem2 = alias(self.stem2)  # with its hooks
        del stem2[2:]
        conv = merge(layers, nn.Sequential(self.stem1, stem2))

        def switch() -> None:
            stem = self.stem2
            stem[0] = conv
            del stem[1]
            self.become(['stem1', 'stem2', 'stages'], stem=stem, stages=self.stages)

        return switch

    def _freeze_stages(self) -> None:
        if self.num_frozen < 0:
            return
        stem = [self.stem] if self.deploy else [self.stem1, self.stem2]
        for module in [*stem, *self.stages[: self.num_frozen]]:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'VanillaNet':
        """Switch the mode; frozen stages and, with ``norm_eval``, batch norms stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
