"""The layers of an accelerated VanillaNet: for inference, on one device, in one dtype.

A layer of the deploy form is convolution, pool, ReLU and depthwise convolution. On the CPU tensors
stay in oneDNN's layout (``torch.Tensor.to_mkldnn``) from the image to the features. On CUDA the
fused activation includes pool and ReLU. A fast layer is built from an original layer and a dtype.
"""

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import mkldnn

from ...copies import has_hooks
from ...models import SeriesActivation
from ...ops.series_activation import channels_innermost, series_activation

FUSED_WINDOWS = (3, 5, 7, 9)  # window sides that the fused operator supports


class FastLayer(nn.Module):
    """A layer with a weight and a bias in its dtype, not in state dicts."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer('weight', weight.detach().to(dtype), persistent=False)
        self.register_buffer('bias', bias.detach().to(dtype), persistent=False)


class OneDNNConv(nn.Module):
    """A convolution of tensors in oneDNN's layout, mostly blocks of channels.

    There depthwise convolutions are two to three times as fast as in channels-last, where the
    pixels of a channel are far apart. The weight is packed once, for oneDNN's inference primitive.
    Newer torch runs the training primitive, which reorders the weight at every call; that matters
    only on small single images.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        conv = copy.deepcopy(conv).float().requires_grad_(False)
        with warnings.catch_warnings():  # torch packs by the deprecated TorchScript
            warnings.filterwarnings('ignore', r'.*torch\.jit')
            weight = mkldnn.to_mkldnn(conv, dtype).weight
        # No buffers: a cast of the model would change the dtype of the packed weight.
        self.packed = (weight, conv.bias.to_mkldnn(dtype))
        self.where: tuple = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W), dense or oneDNN, to (N, C_out, H', W') in oneDNN's layout."""
        x = x if x.is_mkldnn else x.to_mkldnn()
        return F.conv2d(x, *self.packed, *self.where)

    def __deepcopy__(self, memo: dict) -> 'OneDNNConv':
        """Share the packed tensors, which are never written and cannot be copied."""
        copied = memo[id(self)] = self.__class__.__new__(self.__class__)
        memo[id(self.packed)] = self.packed
        copied.__dict__.update(copy.deepcopy(vars(self), memo))
        return copied


class DensePool(nn.Module):
    """A pool that oneDNN does not support."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H', W'), both in oneDNN's layout."""
        return self.pool(x.to_dense()).to_mkldnn()


class PointwiseConv(FastLayer):
    """A 1x1 convolution as a matrix product over the pixels of a channels-last input.

    The product adds the bias, for which a library's convolution needs one more kernel.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(conv.weight.flatten(1), conv.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W), channels-last."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class PlainConv(FastLayer):
    """A convolution in channels-last."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(conv.weight.to(memory_format=torch.channels_last), conv.bias, dtype)
        self.where: tuple = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), channels-last."""
        x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, *self.where)


class FusedActivation(FastLayer):
    """The max-pool (2, or 1 for none) and the series activation after it, as one CUDA kernel.

    Sums, weight and bias are in float32, whatever the dtype of the input.
    """

    def __init__(self, act: SeriesActivation, pool: int) -> None:
        super().__init__(channels_innermost(act.weight), act.bias, torch.float32)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H // pool, W // pool)."""
        return series_activation(x, self.weight, self.bias, self.pool)


def cpu_layer(
    conv: nn.Conv2d, pool: nn.Module, act: SeriesActivation, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return a layer of oneDNN primitives: convolution, pool, ReLU and depthwise convolution."""
    pool = pool if isinstance(pool, (nn.Identity, nn.MaxPool2d)) else DensePool(pool)
    window = OneDNNConv(depthwise(act.weight, act.bias), dtype)
    return OneDNNConv(conv, dtype), pool, nn.Sequential(nn.ReLU(inplace=True), window)


def cuda_layer(
    conv: nn.Conv2d, pool: nn.Module, act: SeriesActivation, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return a layer of two kernels: convolution, then pool, ReLU and depthwise convolution."""
    pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    fast = PointwiseConv(conv, dtype) if pointwise else PlainConv(conv, dtype)
    if act.weight.shape[-1] not in FUSED_WINDOWS:
        window = PlainConv(depthwise(act.weight, act.bias), dtype)
        return fast, pool, nn.Sequential(nn.ReLU(), window)
    if str(pool) == str(nn.MaxPool2d(2)) and not has_hooks(pool):
        return fast, nn.Identity(), FusedActivation(act, pool=2)
    return fast, pool, FusedActivation(act, pool=1)


def depthwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a depthwise convolution with a weight (C, 1, k, k) and a bias (C)."""
    channels, side = len(weight), weight.shape[-1]
    with torch.device('meta'):
        conv = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
    conv.weight, conv.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
    return conv
