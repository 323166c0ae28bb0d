"""The classification head: trained with two layers, deployed with one.

Importing this module imports mmpretrain, which users of a detector or segmentor may not have; in a
config the name ``VanillaNetClsHead`` does so when the head is built.
"""

import torch
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from ..errors import UserError
from .deep_training import DeepTraining, deep_training_act
from .layers import build_conv, build_norm
from .reparam import carry_over, chain, check_norm, fold_conv_norm, set_parameters
from .vanillanet import MAX_SIZE, check_bool, check_cfg, is_int
from .weights import fit_head


class VanillaNetClsHead(DeepTraining, ClsHead):
    """Global average pooling and two layers with the annealed activation between them.

    Training form: ``cls1`` (pool, dropout, 1x1 convolution, norm), the activation of deep training
    (paper, section 3.1), ``cls2`` (1x1 convolution). Deploy form: ``cls`` (pool, dropout, 1x1
    convolution). Names are those of the published checkpoints.

    Args:
        num_classes: Number of classes.
        in_channels: Channels C of the features.
        drop_rate: Probability at which a pooled channel is dropped in training, 0 or more and below
            1.
        norm_cfg: Config of the norm layer; ``eps`` is 1e-6 unless given.
        deploy: Build the deploy form.
        init_cfg: Config of the initialisation.
        **kwargs: ``loss``, ``topk`` and ``cal_acc`` of mmpretrain's ``ClsHead``.

    Raises:
        UserError: If an argument is out of its range; the message says which and what is expected.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        drop_rate: float = 0.0,
        norm_cfg: dict = dict(type='BN', eps=1e-6),  # noqa: B006 - read, never written
        deploy: bool = False,
        init_cfg: dict | None = dict(type='Normal', layer='Conv2d', std=0.01),  # noqa: B006
        **kwargs: object,
    ) -> None:
        super().__init__(init_cfg=init_cfg, **kwargs)
        for name, value in dict(num_classes=num_classes, in_channels=in_channels).items():
            if not is_int(value, 1):
                raise UserError(
                    f'{name} of the head is {value!r}, expected an integer of at least 1 and at '
                    f'most {MAX_SIZE}'
                )
        check_cfg('norm_cfg of the head', norm_cfg)
        check_bool('deploy of the head', deploy)
        if not (isinstance(drop_rate, int | float) and 0 <= drop_rate < 1):
            raise UserError(
                f'drop_rate of the head is {drop_rate!r}, expected a number from 0 to below 1'
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.deploy = deploy
        first = [
            nn.AdaptiveAvgPool2d(1),
            nn.Dropout(drop_rate),
            build_conv(in_channels, num_classes),
        ]
        if deploy:
            self.cls = nn.Sequential(*first)
        else:
            norm = build_norm({'eps': 1e-6, **norm_cfg}, num_classes)
            self.cls1 = nn.Sequential(*first, norm)
            self.cls2 = nn.Sequential(build_conv(num_classes, num_classes))
            self.add_act_learn()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        fit_head(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (N, num_classes) of features whose last level is (N, C, H, W).

        Raises:
            UserError: If the last level has another shape, such as that of a neck that pools.
        """
        x = self.pre_logits(feats)
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(
                f'VanillaNetClsHead got features of shape {tuple(x.shape)}, expected '
                f'(N, {self.in_channels}, H, W); it pools by itself, so leave out the neck'
            )
        if self.deploy:
            return self.cls(x).flatten(1)
        return self.cls2(deep_training_act(self.cls1(x), self.act_learn)).flatten(1)

    def check_fusable(self, name: str = '') -> None:
        """Check that the head can be fused; in deploy form it needs nothing.

        Args:
            name: Name of the head in the model, for the message.

        Raises:
            UserError: If ``act_learn`` is not 1, or the norm's statistics are unusable.
        """
        super().check_fusable(name)
        if not self.deploy:
            check_norm(self.cls1[3], f'{name}.cls1.3'.lstrip('.'))

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Fuse into the deploy form, in place: logits in eval mode stay the same.

        Raises:
            UserError: If the head cannot be fused; it is as before then.
        """
        if self.deploy:
            return
        self.check_fusable()
        pool, dropout, first, norm = self.cls1
        weight, bias = chain(
            fold_conv_norm(nn.Sequential(first, norm)),
            (self.cls2[0].weight.double(), self.cls2[0].bias.double()),
        )
        with torch.device('meta'):
            conv = build_conv(self.in_channels, self.num_classes)
        set_parameters(conv, first.weight, weight=weight, bias=bias)
        self.cls = carry_over(self.cls1, nn.Sequential(pool, dropout, conv))
        self.deploy = True
        del self.cls1, self.cls2, self._act_learn
