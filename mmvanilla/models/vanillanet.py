"""VanillaNet, the backbone."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from .deep_training import DeepTraining, deep_training_act
from .layers import DeployStage, SeriesActivation, Stage, build_conv, conv_norm
from .recompute import recompute
from .reparam import carry_over, chain, check_norm, fold_conv_norm, set_parameters
from .weights import fit, safe_loading

# Paper, table 3. From depth 7 on a net differs from the next by one more 2048-channel layer.
ARCHS: dict[str, dict] = {
    '5': dict(dims=(512, 1024, 2048, 4096), strides=(2, 2, 2)),
    '6': dict(dims=(512, 1024, 2048, 4096, 4096), strides=(2, 2, 2, 1)),
    **{
        str(depth): dict(
            dims=(512, 512, 1024, *[2048] * (depth - 6), 4096, 4096),
            strides=(1, 2, 2, *[1] * (depth - 7), 2, 1),
        )
        for depth in range(7, 14)
    },
}
_WIDE = dict(
    dims=tuple(dim * 3 // 2 for dim in ARCHS['13']['dims']), strides=ARCHS['13']['strides']
)
ARCHS['13-x1.5'] = _WIDE
ARCHS['13-x1.5-ada'] = dict(**_WIDE, ada_pool=True)

MAX_SIZE = 2**16  # of channels and strides; more is a slip, and no machine has the memory
MAX_ACT_NUM = 64


def parse_arch(arch: str | int | dict) -> dict:
    """Return ``dims``, ``strides`` and ``ada_pool`` of an architecture.

    Args:
        arch: A key of :data:`ARCHS`, an int such as 13, or a dict with ``dims`` (channels of the
            stem and of every stage), ``strides`` (of every stage) and, optionally, ``ada_pool``.

    Raises:
        UserError: If the name is unknown or the dict does not describe a net.
    """
    if not isinstance(arch, dict):
        if str(arch) not in ARCHS:
            raise UserError(
                f'arch of VanillaNet is {arch!r}, expected one of {", ".join(ARCHS)} '
                'or a dict with dims, strides and ada_pool'
            )
        arch = ARCHS[str(arch)]
    if not {'dims', 'strides'} <= set(arch) <= {'dims', 'strides', 'ada_pool'}:
        raise UserError(
            f'arch of VanillaNet has the keys {sorted(map(str, arch))}, '
            'expected dims, strides and optionally ada_pool'
        )
    for key in ('dims', 'strides'):
        values = arch[key]
        if not (isinstance(values, Sequence) and all(is_int(v, 1) for v in values)):
            raise UserError(
                f'{key} of arch is {values!r}, expected a list of positive integers '
                f'up to {MAX_SIZE}'
            )
    if not len(arch['dims']) == len(arch['strides']) + 1 > 1:
        raise UserError(
            f'arch has {len(arch["dims"])} dims and {len(arch["strides"])} strides, expected a dim '
            'for the stem and one for each stride, of which there is at least one'
        )
    ada_pool = arch.get('ada_pool', False)
    check_bool('ada_pool of arch', ada_pool)
    return dict(dims=tuple(arch['dims']), strides=tuple(arch['strides']), ada_pool=ada_pool)


def is_int(value: object, least: int, most: int = MAX_SIZE) -> bool:
    """Tell whether a value is an integer within a range, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check_bool(name: str, value: object) -> None:
    """Refuse what is no bool; the text 'False' would count as true.

    Raises:
        UserError: If it is none.
    """
    if not isinstance(value, bool):
        raise UserError(f'{name} is {value!r}, expected True or False')


def check_cfg(name: str, value: object) -> None:
    """Refuse what is no config of something to build.

    Raises:
        UserError: If it is none.
    """
    if not (isinstance(value, dict) and isinstance(value.get('type'), str | type)):
        raise UserError(f'{name} is {value!r}, expected a dict with a type')


@MODELS.register_module()
class VanillaNet(DeepTraining, BaseModule):
    """VanillaNet, a backbone of plain convolutions (https://arxiv.org/abs/2305.12972).

    Args:
        arch: '5' ... '13', '13-x1.5' or '13-x1.5-ada' (or an int such as 13), or a dict with
            ``dims``, ``strides`` and ``ada_pool`` for a net of one's own; see :func:`parse_arch`.
        out_indices: The resolution levels to return, ascending: level 0, 1, 2, 3 is the last output
            at stride 4, 8, 16, 32 (3, 6, 12, 24 where ``ada_pool`` is set), be it a stage's or, for
            level 0 of the nets of depth 5 and 6, the stem's.
        act_num: Half the width n of the series activation's (2n + 1) x (2n + 1) window: 3 in the
            published ImageNet nets, 4 in the published detectors.
        in_channels: Channels of the input image.
        norm_cfg: Config of the norm layers; ``eps`` is 1e-6 unless given.
        frozen_stages: -1 trains everything, 0 freezes the stem, k freezes the stem and every stage
            up to the output of level k - 1 (as ``frozen_stages=k`` does in ResNet).
        norm_eval: Keep the batch norms' statistics as they are while training.
        with_cp: Save memory in training: keep what the 1x1 convolutions give, and recompute the
            rest, which is cheap, in the backward pass.
        deploy: Build the deploy form: one convolution a layer and no norm.
        init_cfg: Config of the initialisation; None keeps Kaiming's random weights.

    Raises:
        UserError: If an argument is out of its range; the message says which and what is expected.

    Example:
        >>> net = VanillaNet('13', act_num=4)
        >>> [tuple(f.shape) for f in net(torch.rand(1, 3, 64, 96))]
        [(1, 512, 16, 24), (1, 1024, 8, 12), (1, 2048, 4, 6), (1, 4096, 2, 3)]
    """

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
        for each in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
            if each is not None:
                check_cfg('init_cfg', each)
        super().__init__(init_cfg)
        arch = parse_arch(arch)
        dims, strides, ada_pool = arch['dims'], arch['strides'], arch['ada_pool']
        if not is_int(act_num, 0, MAX_ACT_NUM):
            raise UserError(
                f'act_num is {act_num!r}, expected an integer of at least 0 and at most '
                f'{MAX_ACT_NUM}'
            )
        if not is_int(in_channels, 1):
            raise UserError(
                f'in_channels is {in_channels!r}, expected an integer of at least 1 and at most '
                f'{MAX_SIZE}'
            )
        check_cfg('norm_cfg', norm_cfg)
        for name, value in dict(norm_eval=norm_eval, with_cp=with_cp, deploy=deploy).items():
            check_bool(name, value)

        # The index of the last output of every resolution; -1 is the stem.
        ends = [i - 1 for i, stride in enumerate(strides) if stride > 1] + [len(strides) - 1]
        self._check_levels(out_indices, frozen_stages, len(ends))
        self.arch = arch
        self.out_indices = tuple(out_indices)
        self.out_stages = tuple(ends[level] for level in out_indices)
        self.out_channels = tuple(dims[i + 1] for i in self.out_stages)
        self.in_channels = in_channels
        base = 3 if ada_pool else 4
        self.out_strides = tuple(base * math.prod(strides[: i + 1]) for i in self.out_stages)
        self.frozen_stages = frozen_stages
        # How many of the stages are frozen; -1 leaves the stem free as well.
        self.num_frozen = (
            ([0] + [end + 1 for end in ends])[frozen_stages] if frozen_stages >= 0 else -1
        )
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.deploy = deploy

        norm_cfg = {'eps': 1e-6, **norm_cfg}
        stem = dict(kernel_size=4, **(dict(stride=3, padding=1) if ada_pool else dict(stride=4)))
        self.min_size = stem['stride'] * math.prod(strides)
        if deploy:
            self.stem = nn.Sequential(
                build_conv(in_channels, dims[0], **stem),
                SeriesActivation(dims[0], act_num, norm_cfg, deploy=True),
            )
        else:
            self.stem1 = conv_norm(in_channels, dims[0], norm_cfg, **stem)
            self.stem2 = conv_norm(dims[0], dims[0], norm_cfg)
            self.stem2.append(SeriesActivation(dims[0], act_num, norm_cfg))
            self.add_act_learn()
        stage = DeployStage if deploy else Stage
        self.stages = nn.ModuleList(
            stage(*channels, stride, act_num, norm_cfg, ada_pool)
            for channels, stride in zip(pairwise(dims), strides, strict=True)
        )
        self._freeze_stages()

    @staticmethod
    def _check_levels(out_indices: Sequence[int], frozen_stages: int, num_levels: int) -> None:
        if not (
            isinstance(out_indices, Sequence)
            and len(out_indices) > 0
            and all(is_int(i, 0, num_levels - 1) for i in out_indices)
            and all(a < b for a, b in pairwise(out_indices))
        ):
            raise UserError(
                f'out_indices is {out_indices!r}, expected ascending resolution levels '
                f'from 0 to {num_levels - 1}, such as {tuple(range(num_levels))}'
            )
        if not is_int(frozen_stages, -1, num_levels):
            raise UserError(
                f'frozen_stages is {frozen_stages!r}, expected -1 (train all), 0 (freeze the stem) '
                f'or a number of resolution levels up to {num_levels}'
            )

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says.

        Raises:
            FileNotFoundError: If its checkpoint is not there.
            UserError: If it cannot be followed, or its checkpoint does not fit.
        """
        try:
            with safe_loading():
                super().init_weights()
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:  # mmengine's registry and initialisers have errors of their own
            raise UserError(
                f'init_cfg is {self.init_cfg!r}, which cannot be followed '
                f"({' '.join(str(error).split())}); use one such as dict(type='Kaiming', "
                "layer='Conv2d')"
            ) from error

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        fit(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the levels in ``out_indices``.

        Args:
            x: Images, (N, in_channels, H, W), H and W at least the net's stride (32).

        Returns:
            One tensor a level, (N, out_channels[k], H / stride, W / stride), strides 4, 8, 16, 32.

        Raises:
            UserError: If the images have another channel count or are smaller than the stride, or
                if the deploy form is to be trained.
        """
        self._check_input(x)
        self._check_trainable()
        if x.device.type == 'cpu':
            # Depthwise convolutions, backward above all, are several times faster in this layout.
            x = x.contiguous(memory_format=torch.channels_last)
        act_learn = self.act_learn
        x = self._stem(x, act_learn)
        outs = [x] if -1 in self.out_stages else []
        for i in range(self.out_stages[-1] + 1):
            x = self._stage(i, x, act_learn)
            if i in self.out_stages:
                outs.append(x)
        return tuple(outs)

    def _stem(self, x: Tensor, act_learn: float) -> Tensor:
        if self.deploy:
            return self.stem(x)
        x = deep_training_act(self.stem1(x), act_learn)
        return recompute(self.stem2, x) if self._recomputes else self.stem2(x)

    def _stage(self, i: int, x: Tensor, act_learn: float) -> Tensor:
        args = (x,) if self.deploy else (x, act_learn)
        return recompute(self.stages[i], *args) if self._recomputes else self.stages[i](*args)

    @property
    def _recomputes(self) -> bool:
        return self.with_cp and torch.is_grad_enabled()

    def _check_input(self, x: Tensor) -> None:
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

    def _check_trainable(self) -> None:
        if not (self.deploy and self.training and torch.is_grad_enabled()):
            return
        if any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError(
                'VanillaNet is in deploy form, which has no batch norms and is not for training; '
                'train the training form (deploy=False), freeze this one (requires_grad_(False)) '
                'or call eval() to use it'
            )

    def check_fusable(self, name: str = '') -> None:
        """Check that the net can be fused; a net in deploy form needs nothing.

        Args:
            name: Name of the net in the model, for the message.

        Raises:
            UserError: If ``act_learn`` is not 1, or the statistics of a batch norm are unusable.
        """
        super().check_fusable(name)
        for path, module in self.named_modules(prefix=name):
            if isinstance(module, SeriesActivation) and module.bias is None:
                check_norm(module.bn, f'{path}.bn')
            elif isinstance(module, nn.Sequential) and not self.deploy:
                check_norm(module[1], f'{path}.1')

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fuse into the deploy form, in place: outputs in eval mode stay the same.

        Every layer becomes one convolution (Figure 2 of the paper). Train flags, gradient flags and
        hooks of the net, its stages and activations stay; a second call changes nothing.

        Raises:
            UserError: If ``act_learn`` is not 1, or the statistics of a batch norm are unusable;
                the net is as before then.
        """
        if self.deploy:
            return
        self.check_fusable()
        first = self.stem1[0]
        weight, bias = chain(fold_conv_norm(self.stem1), fold_conv_norm(self.stem2))
        with torch.device('meta'):
            conv = build_conv(
                self.in_channels,
                len(weight),
                kernel_size=first.kernel_size,
                stride=first.stride,
                padding=first.padding,
            )
        set_parameters(conv, first.weight, weight=weight, bias=bias)
        stem = carry_over(self.stem2, nn.Sequential(conv, self.stem2[2].fuse()))
        stages = [stage.fuse() for stage in self.stages]
        self.deploy = True
        del self.stem1, self.stem2, self._act_learn
        for i, stage in enumerate(stages):
            self.stages[i] = stage
        # In the order in which a net that is built in deploy form has them.
        children = dict(self._modules)
        self._modules.clear()
        self.stem = stem
        self._modules.update(children)

    def _freeze_stages(self) -> None:
        if self.num_frozen < 0:
            return
        stem = [self.stem] if self.deploy else [self.stem1, self.stem2]
        for module in [*stem, *self.stages[: self.num_frozen]]:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'VanillaNet':
        """Switch to training mode, frozen stages and (with ``norm_eval``) batch norms excepted."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
