"""The series activation (paper, section 3.2), a layer of VanillaNet and for other nets."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, fx, nn

from ..copies import free_weight
from ..errors import require
from ..ops.depthwise_conv import depthwise_conv2d
from .archs import MAX_SIZE, is_int
from .conv_norm import build_norm
from .reparam import Reparameterizable, merge

fx.wrap('depthwise_conv2d')  # symbolic tracing keeps the call: a proxy has no device


@MODELS.register_module()
class SeriesActivation(Reparameterizable):
    """A sum of shifted, scaled ReLUs: a depthwise convolution after a ReLU.

    Training form: ``norm(depthwise(relu(x)))``; deploy form: ``depthwise(relu(x)) + bias``.

    Use it as ``act_cfg`` in mmcv layers, with the number of their output channels:
    ``ConvModule(64, 128, 3, act_cfg=dict(type='SeriesActivation', channels=128))``.

    Args:
        channels: Number of channels C.
        act_num: Half the width n of the window; the kernel is (2n + 1) x (2n + 1).
        norm_cfg: Config of the norm layer, unused in deploy form.
        deploy: Build the deploy form.
        inplace: Ignored; mmcv's layers pass it to every activation.

    Raises:
        UserError: If ``channels`` or ``act_num`` is out of its range.
    """

    def __init__(
        self,
        channels: int | None = None,
        act_num: int = 3,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006 - read, never written
        deploy: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        example = "act_cfg=dict(type='SeriesActivation', channels=128), with the layer's channels"
        for name, value, minimum in (('channels', channels, 1), ('act_num', act_num, 0)):
            expected = f'an integer from {minimum} to {MAX_SIZE}; write {example}'
            require(f'{name} of SeriesActivation', value, is_int(value, minimum), expected)
        self.deploy = deploy
        kernel_size = 2 * act_num + 1
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size))
        # Start close to a ReLU: random windows would blur the features.
        nn.init.normal_(self.weight, std=0.02)
        self.weight.data[..., act_num, act_num] += 1
        self.bias = nn.Parameter(torch.zeros(channels)) if deploy else None
        # mmengine's efficient_conv_bn_eval expects a module before each norm.
        self.window = nn.Identity()
        self.bn = nn.Identity() if deploy else build_norm(norm_cfg, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        return self.bn(self.window(depthwise_conv2d(F.relu(x), self.weight, self.bias)))

    def reparameterize(self, prefix: str = '') -> Callable[[], None]:
        """Fold the norm into weight and bias; see ``Reparameterizable``."""
        channels, _, side, _ = self.weight.shape
        with torch.device('meta'):
            conv = nn.Conv2d(
                channels, channels, side, padding=side // 2, groups=channels, bias=False
            )
        conv.weight = nn.Parameter(self.weight.detach(), self.weight.requires_grad)
        layers = {f'{prefix}weight': conv, f'{prefix}bn': self.bn}
        fused = merge(layers, nn.Sequential(conv, self.window, self.bn))

        def switch() -> None:
            free_weight(self)
            self.weight, self.bias = fused.parameters()
            self.bn, self.deploy = nn.Identity(), True

        return switch
