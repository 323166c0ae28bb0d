"""The layers of an accelerated VanillaNet: for inference, on one device, in one type.

Between two layers of the deploy form stands pool(conv(x)), then the ReLU of the activation. A ReLU
commutes with a max-pool, so on the CPU it goes into the convolution before the pool, one oneDNN
primitive; on CUDA pool and ReLU go into the fused activation.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.layers import SeriesActivation
from ...ops.series_activation import channels_innermost, series_activation

FUSED_WINDOWS = (3, 5, 7, 9)  # sides of the windows that the fused operator knows
SIZES = 256  # of inputs, for which a convolution remembers the layout of its weight
# A depthwise convolution goes by groups where pixels have more bytes of channels than this and an
# image at least so many pixels: elsewhere the copies cost more than they save.
MAX_PIXEL_BYTES = 2048
MIN_PIXELS = 800
GROUP_BYTES = 512  # of a pixel's channels in a group; half and twice that measured about the same


class OneDNNConv(nn.Module):
    """A convolution and, if asked for, the ReLU after it: one oneDNN primitive on the CPU.

    The weight is kept packed in the layout that the primitive wants: unpacked it would be packed in
    every call, and in a wrong layout a call takes up to 60 times as long. Which one that is depends
    on the size of the input; every layout met, of which oneDNN has a few, is kept once.

    Args:
        conv: Where weight, bias, stride, padding and groups come from.
        dtype: Type of weight, input and output.
        relu: Apply a ReLU to the output.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> None:
        super().__init__()
        self.where = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.attr = 'relu' if relu else 'none'
        self.bias = conv.bias.detach().to(dtype)
        self.weight = conv.weight.detach().to(dtype).contiguous()
        self.layouts: dict[torch.Size, bytes] = {}  # by shape of the input
        self.packed: dict[bytes, Tensor] = {}  # by layout

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), in the layout of the input."""
        layout = self.layouts.get(x.shape) or self._pack(x.shape)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed[layout], self.bias, *self.where, self.attr, [], ''
        )

    def _pack(self, shape: torch.Size) -> bytes:
        """Keep the weight in the layout for inputs (N, C_in, H, W), which is returned."""
        reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
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
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied


class ChannelGroups(nn.Module):
    """A depthwise convolution by groups of neighbouring channels, which lie closely in memory.

    In channels-last the pixels of one channel are ``C * itemsize`` bytes apart. Where that is a
    large power of two, a window's pixels share a few places in the cache and evict each other;
    copied out and back, a group of channels is convolved up to three times as fast. Images of less
    than 800 pixels are convolved at once.

    Args:
        conv: The depthwise convolution.
        dtype: Type of weight, input and output.
        size: Channels of a group.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, size: int) -> None:
        super().__init__()
        self.size = size
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


class PointwiseConv(nn.Module):
    """A 1x1 convolution as a matrix product over the pixels of a channels-last input.

    So the bias is added by the product itself, which a library's convolution leaves to one more
    kernel.

    Args:
        conv: Where weight and bias come from.
        dtype: Type of weight, input and output.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight = conv.weight.detach().flatten(1).to(dtype)
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('bias', conv.bias.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W), channels-last."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class PlainConv(nn.Module):
    """A convolution with its input brought into channels-last.

    Args:
        conv: Where weight, bias, stride and padding come from.
        dtype: Type of weight, input and output.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride, self.padding = conv.stride, conv.padding
        weight = conv.weight.detach().to(dtype, memory_format=torch.channels_last)
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('bias', conv.bias.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), channels-last."""
        x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class FusedActivation(nn.Module):
    """The series activation with the max-pool before it, one kernel on CUDA.

    Args:
        act: Where weight and bias come from.
        dtype: Type of input and output.
        pool: Kernel and stride of the max-pool, 1 (none) or 2.
    """

    def __init__(self, act: SeriesActivation, dtype: torch.dtype, pool: int) -> None:
        super().__init__()
        weight = act.weight.detach().to(dtype)
        # The formulations on lanes, the only ones in float32, read channels side by side.
        weight = channels_innermost(weight) if dtype == torch.float32 else weight.contiguous()
        self.pool = pool
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('bias', act.bias.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H // pool, W // pool)."""
        return series_activation(x, self.weight, self.bias, self.pool)


def cpu_layer(
    conv: nn.Conv2d, pool: nn.Module, act: SeriesActivation, dtype: torch.dtype
) -> nn.Sequential:
    """Build a layer of oneDNN primitives: convolution with ReLU, pool, depthwise convolution."""
    window = depthwise(act.weight, act.bias)
    item = dtype.itemsize
    apart = len(act.weight) * item > MAX_PIXEL_BYTES
    return nn.Sequential(
        OneDNNConv(conv, dtype, relu=True),
        pool,
        ChannelGroups(window, dtype, GROUP_BYTES // item) if apart else OneDNNConv(window, dtype),
    )


def cuda_layer(
    conv: nn.Conv2d, pool: nn.Module, act: SeriesActivation, dtype: torch.dtype
) -> nn.Sequential:
    """Build a layer of two kernels: convolution with bias, then pool, ReLU and depthwise."""
    pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
    fast = PointwiseConv(conv, dtype) if pointwise else PlainConv(conv, dtype)
    if act.weight.shape[-1] not in FUSED_WINDOWS:
        return nn.Sequential(fast, pool, nn.ReLU(), PlainDepthwise(act, dtype))
    if is_halving(pool):
        return nn.Sequential(fast, FusedActivation(act, dtype, pool=2))
    return nn.Sequential(fast, pool, FusedActivation(act, dtype, pool=1))


class PlainDepthwise(nn.Module):
    """The depthwise convolution of a series activation whose window the fused one lacks.

    Args:
        act: Where weight and bias come from.
        dtype: Type of input and output.
    """

    def __init__(self, act: SeriesActivation, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer('weight', act.weight.detach().to(dtype), persistent=False)
        self.register_buffer('bias', act.bias.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        padding = self.weight.shape[-1] // 2
        return F.conv2d(x, self.weight, self.bias, padding=padding, groups=len(self.weight))


def is_halving(pool: nn.Module) -> bool:
    """Tell whether a pool is the max-pool of 2 x 2 that the fused activation takes in."""
    return isinstance(pool, nn.MaxPool2d) and pool.kernel_size == 2


def depthwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return the depthwise convolution with a weight (C, 1, k, k) and a bias (C)."""
    channels, side = len(weight), weight.shape[-1]
    with torch.device('meta'):
        conv = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
    conv.weight, conv.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
    return conv
