"""The layers of an accelerated VanillaNet: for inference, on one device, in one type.

Between two layers of the deploy form stands pool(conv(x)), then the ReLU of the activation. A ReLU
commutes with a max-pool, so on the CPU it goes into the convolution before the pool, one oneDNN
primitive; on CUDA pool and ReLU go into the fused activation. Each fast layer is built from the
layer whose weight, bias and geometry it takes, and from the type of its weight, input and output.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import SeriesActivation
from ...ops.series_activation import channels_innermost, series_activation

FUSED_WINDOWS = (3, 5, 7, 9)  # sides of the windows that the fused operator knows
SIZES = 256  # of inputs, for which a convolution remembers the layout of its weight
# A depthwise convolution goes by groups where pixels have more bytes of channels than this and an
# image at least so many pixels: elsewhere the copies cost more than they save.
MAX_PIXEL_BYTES = 2048
MIN_PIXELS = 800
GROUP_BYTES = 512  # of a pixel's channels in a group; half and twice that measured about the same


# What packs weights has no public name. Where torch has not all of it yet, weights stay unpacked.
PACKS = all(
    hasattr(namespace, name)
    for namespace, name in [
        (torch.ops.mkldnn, '_convolution_pointwise'),
        (torch.ops.mkldnn, '_get_mkldnn_serialized_md'),
        (torch.ops.aten, 'mkldnn_reorder_conv2d_weight'),
    ]
)


class FastLayer(nn.Module):
    """A layer that keeps a weight and a bias in the type it computes in, out of state dicts."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer('weight', weight.detach().to(dtype), persistent=False)
        self.register_buffer('bias', bias.detach().to(dtype), persistent=False)


class OneDNNConv(nn.Module):
    """A convolution and, if asked for, the ReLU after it: one oneDNN primitive on the CPU.

    The weight is kept packed in the layout that the primitive wants: unpacked it would be packed in
    every call, and in a wrong layout a call takes up to 60 times as long. Which one that is depends
    on the size of the input; every layout met, of which oneDNN has a few, is kept once.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> None:
        super().__init__()
        # No buffers: a cast of the model would take them out of the type that is packed.
        self.weight = conv.weight.detach().to(dtype).contiguous()
        self.bias = conv.bias.detach().to(dtype)
        self.where: tuple = (
            list(conv.padding),
            list(conv.stride),
            list(conv.dilation),
            conv.groups,
        )
        self.attr = 'relu' if relu else 'none'
        self.layouts: dict[torch.Size, bytes] = {}  # by shape of the input
        self.packed: dict[bytes, Tensor] = {}  # by layout

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), in the layout of the input."""
        if not PACKS:
            padding, stride, dilation, groups = self.where
            out = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
            return out.relu_() if self.attr == 'relu' else out
        layout = self.layouts.get(x.shape) or self._pack(x.shape)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed[layout], self.bias, *self.where, self.attr, [], ''
        )

    def _pack(self, shape: torch.Size) -> bytes:
        """Keep the weight in the layout for inputs (N, C_in, H, W), which is returned."""
        reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
        packed = reorder(self.weight.to_mkldnn(), *self.where, shape)
        layout = bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(packed).tolist())
        self.packed.setdefault(layout, packed)
        if len(self.layouts) >= SIZES:
            self.layouts.clear()
        self.layouts[shape] = layout
        return layout

    def __deepcopy__(self, memo: dict) -> 'OneDNNConv':
        """Share the packed weights, which are never written and cannot be copied."""
        copied = memo[id(self)] = self.__class__.__new__(self.__class__)
        memo.update({id(packed): packed for packed in self.packed.values()})
        copied.__dict__.update(copy.deepcopy(vars(self), memo))
        return copied


class ChannelGroups(nn.Module):
    """A depthwise convolution by groups of neighbouring channels, which lie closely in memory.

    In channels-last the pixels of one channel are ``C * itemsize`` bytes apart. Where that is a
    large power of two, a window's pixels share a few places in the cache and evict each other;
    copied out and back, a group of channels is convolved up to three times as fast. Images of less
    than 800 pixels are convolved at once.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.size = size = GROUP_BYTES // dtype.itemsize
        self.whole = OneDNNConv(conv, dtype)
        self.convs = nn.ModuleList(
            OneDNNConv(depthwise(weight, bias), dtype)
            for weight, bias in zip(conv.weight.split(size), conv.bias.split(size), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), channels-last."""
        if x.shape[2] * x.shape[3] < MIN_PIXELS:
            return self.whole(x)
        out = torch.empty_like(x, memory_format=torch.channels_last)
        groups = zip(self.convs, x.split(self.size, 1), out.split(self.size, 1), strict=True)
        for conv, source, target in groups:
            target.copy_(conv(source.contiguous(memory_format=torch.channels_last)))
        return out


class PointwiseConv(FastLayer):
    """A 1x1 convolution as a matrix product over the pixels of a channels-last input.

    So the bias is added by the product itself, which a library's convolution leaves to one more
    kernel.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(conv.weight.flatten(1), conv.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W), channels-last."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class PlainConv(FastLayer):
    """A convolution with its input brought into channels-last."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(conv.weight.to(memory_format=torch.channels_last), conv.bias, dtype)
        self.where: tuple = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), channels-last."""
        x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, *self.where)


class FusedActivation(FastLayer):
    """The series activation with the max-pool (of 2, or 1 for none) before it, one CUDA kernel.

    It sums in float32 whatever the type of its input, and reads its weight and bias so.
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
    """Return a layer of oneDNN's primitives: convolution with ReLU, pool, depthwise convolution."""
    window = depthwise(act.weight, act.bias)
    wide = len(act.weight) * dtype.itemsize > MAX_PIXEL_BYTES
    fast = ChannelGroups(window, dtype) if wide else OneDNNConv(window, dtype)
    return OneDNNConv(conv, dtype, relu=True), pool, fast


def cuda_layer(
    conv: nn.Conv2d, pool: nn.Module, act: SeriesActivation, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return two kernels for a layer: convolution with bias, then pool, ReLU and depthwise."""
    pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    fast = PointwiseConv(conv, dtype) if pointwise else PlainConv(conv, dtype)
    if act.weight.shape[-1] not in FUSED_WINDOWS:
        window = PlainConv(depthwise(act.weight, act.bias), dtype)
        return fast, pool, nn.Sequential(nn.ReLU(), window)
    if isinstance(pool, nn.MaxPool2d) and pool.kernel_size == 2:
        return fast, nn.Identity(), FusedActivation(act, pool=2)
    return fast, pool, FusedActivation(act, pool=1)


def depthwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return the depthwise convolution with a weight (C, 1, k, k) and a bias (C)."""
    channels, side = len(weight), weight.shape[-1]
    with torch.device('meta'):
        conv = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
    conv.weight, conv.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
    return conv
