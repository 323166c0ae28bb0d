"""Make a trained model fast for inference on its device."""

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ...copies import same_outputs
from ...errors import UserError, require
from ...installed import mmcv_is_compiled
from ...models import SeriesActivation, VanillaNet, fuse
from .cuda_graphs import GraphCache
from .fast_layers import PlainConv, cpu_layer, cuda_layer, depthwise
from .low_precision import (
    LowPrecision,
    check_range,
    choose_dtype,
    contiguous,
    tf32_as_in_products,
)
from .malloc import keep_freed_memory
from .steps import Steps

HEADS = ('neck', 'rpn_head', 'bbox_head', 'decode_head')
ROI_HEADS = ('bbox_head', 'mask_head')


def accelerate(
    model: nn.Module,
    dtype: torch.dtype | str | None = None,
    compile: bool | str = 'auto',
    cuda_graph: bool = False,
    report: bool = False,
) -> nn.Module:
    """Make a model with a VanillaNet fast, in place, for inference on its device.

    Every VanillaNet is fused, with the batch norms of necks and heads. On the CPU its layers become
    oneDNN primitives; tensors between them are in oneDNN's layout, and hooks convert them by
    ``to_dense()``. On CUDA the layers become channels-last matrix products and the fused series
    activation. In 16 bit, necks and heads compute in 16 bit, too; inputs, results and the decoding
    of boxes stay in float32. On Linux the process keeps freed memory from now on, see
    ``malloc.keep_freed_memory``. The normalization of images is not folded into the stem: batches
    are padded with normalized zeros, so that would not be exact.

    The net has no parameters afterwards: load and average weights before; do not train or save the
    model, or move it to another device.

    Args:
        model: A backbone, a detector, a segmentor or a wrapper; it is set to eval mode.
        dtype: ``fp32``, ``fp16``, ``bf16`` or torch's names; None selects float16 on CUDA, bfloat16
            on a CPU with instructions for it, else float32.
        compile: True compiles the backbone by ``torch.compile``, once for all image sizes, on CUDA
            only. 'auto' compiles nothing, since nothing between the layers is left to fuse.
        cuda_graph: Replay the backbone from CUDA graphs for the last 8 input shapes that occurred
            more than once. Replays skip the hooks of stages, and calls must be on one stream. If
            memory runs out, a warning says so, and further shapes are computed without a graph.
        report: Print speed and error of the (first) net after each step, at 800 x 1280.

    Returns:
        The model itself. A second call changes nothing.

    Raises:
        UserError: If there is no VanillaNet, it cannot be fused, the device does not support an
            option (the model is unchanged then), the fused weights do not fit the dtype, or layers
            compute more than those of a VanillaNet, as with adapters.
    """
    nets = [module for module in model.modules() if isinstance(module, VanillaNet)]
    if not nets:
        raise UserError(f'{type(model).__name__} has no VanillaNet, which accelerate() is for')
    known = isinstance(compile, bool) or compile == 'auto'
    require('compile', compile, known, "True, False or 'auto'")
    require('cuda_graph', cuda_graph, isinstance(cuda_graph, bool), 'True or False')
    for net in nets:
        if isinstance(net.forward, FastForward):
            net.forward.check_options(dtype, compile, cuda_graph)
    nets = [net for net in nets if not isinstance(net.forward, FastForward)]
    if not nets:
        return model
    device = next(nets[0].parameters()).device
    dtype = choose_dtype(dtype, device)
    _check_device(device, compile is True, cuda_graph)
    fuse(model, neck_and_heads=True).eval()
    for net in nets:
        _check_layers(net)
        check_range(net, dtype)

    steps = Steps(nets[0], device) if report else None
    if steps:
        steps.add('fused', nets[0])
        if dtype != torch.float32:
            exact = copy.deepcopy(nets[0])
            _replace_layers(exact, torch.float32, device)
            exact.forward = FastForward(exact, torch.float32, device)
            steps.add('fast layers, float32', exact)
    for net in nets:
        _replace_layers(net, dtype, device)
        net.forward = FastForward(net, dtype, device, compile is True, cuda_graph)
    for module in _neck_and_heads(model):
        module.to(memory_format=torch.channels_last)
        if mmcv_is_compiled():
            module.register_forward_hook(contiguous)
        if dtype != torch.float32 and not isinstance(module.forward, LowPrecision):
            module.forward = LowPrecision(module, dtype, device.type)
    if steps:
        steps.add(f'fast layers, {str(dtype).removeprefix("torch.")}', nets[0])
    keeps_memory = device.type == 'cpu' and keep_freed_memory()
    if steps:
        if keeps_memory:
            steps.add('freed memory kept', nets[0])
        steps.print()
    return model


class FastForward:
    """Replacement for the ``forward`` of a net with fast layers: float32 in and out."""

    def __init__(
        self,
        net: VanillaNet,
        dtype: torch.dtype,
        device: torch.device,
        compile: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self.net, self.dtype, self.device = net, dtype, device.type
        self.options = (compile, cuda_graph)
        self.run: Callable[[Tensor], tuple[Tensor, ...]] = self._forward
        if compile:
            self.run = torch.compile(self.run, dynamic=True)
        if cuda_graph:
            self.run = GraphCache(self.run)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the net's features of images (N, in_channels, H, W), in float32.

        Raises:
            UserError: If the net is in training mode, or an image is unsuitable or elsewhere.
        """
        if self.net.training:
            raise UserError(
                'an accelerated VanillaNet is not for training; call eval() to use it, or train '
                'the model before it is accelerated'
            )
        if x.device.type != self.device:
            raise UserError(
                f'the image is on {x.device}, but VanillaNet was accelerated on {self.device}; '
                'bring both to one device first'
            )
        self.net.check_input(x)
        with torch.no_grad(), torch.autocast(self.device, enabled=False), tf32_as_in_products():
            outs = self.run(x.detach().to(self.dtype))
            exact = torch.float32
            return tuple(out.to_dense(exact) if out.is_mkldnn else out.to(exact) for out in outs)

    def check_options(
        self, dtype: torch.dtype | str | None, compile: bool | str, cuda_graph: bool
    ) -> None:
        """Raise a UserError if a second call has other options."""
        wanted = choose_dtype(dtype, torch.device(self.device))
        if (wanted, compile is True, cuda_graph) != (self.dtype, *self.options):
            raise UserError(
                f'the model is accelerated in {self.dtype} with compile={self.options[0]} and '
                f'cuda_graph={self.options[1]}; build it again for other options'
            )

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return type(self.net).forward(self.net, x)


def _check_device(device: torch.device, compile: bool, cuda_graph: bool) -> None:
    """Check that a device is known and supports the options."""
    if device.type not in ('cpu', 'cuda'):
        raise UserError(f'the model is on {device}, expected the CPU or CUDA')
    if device.type == 'cpu' and not torch.backends.mkldnn.is_available():
        raise UserError('this PyTorch is built without oneDNN, which accelerate() needs on the CPU')
    if device.type == 'cpu' and (compile or cuda_graph):
        option = 'compile' if compile else 'cuda_graph'
        raise UserError(f'{option}=True needs CUDA, and the model is on the CPU; leave it out')
    if compile and find_spec('triton') is None:
        raise UserError('compile=True needs Triton: pip install triton')


def _check_layers(net: VanillaNet) -> None:
    """Raise UserError if layers compute something that fast layers would not."""
    layers = dict(stem=(net.stem[0], nn.Identity(), net.stem[1]))
    layers |= {f'stages.{i}': (b.conv, b.pool, b.act) for i, b in enumerate(net.stages)}
    for name, (conv, pool, act) in layers.items():
        if isinstance(conv, nn.Conv2d) and isinstance(act, SeriesActivation):
            window = PlainConv(depthwise(act.weight, act.bias), torch.float64)
            fast = nn.Sequential(PlainConv(conv, torch.float64), pool, nn.ReLU(), window)
            old, side = nn.Sequential(conv, pool, act), 4 * max(conv.kernel_size)
            if same_outputs(old, fast, conv.in_channels, side):
                continue
        raise UserError(
            f'{name} of VanillaNet cannot be accelerated, since it computes more than convolution, '
            'pool and series activation; merge adapters, in PEFT by merge_and_unload(), and remove '
            'added modules, subclasses and hooks'
        )


def _replace_layers(net: VanillaNet, dtype: torch.dtype, device: torch.device) -> None:
    """Put fast layers into a net's stem and blocks, which keep their hooks."""
    build = cuda_layer if device.type == 'cuda' else cpu_layer
    stem = build(net.stem[0], nn.Identity(), net.stem[1], dtype)
    layers = [build(block.conv, block.pool, block.act, dtype) for block in net.stages]
    net.stem[0], _, net.stem[1] = stem  # after all are built: an error leaves the net whole
    for block, layer in zip(net.stages, layers, strict=True):
        block.conv, block.pool, block.act = layer
    net.eval()


def _neck_and_heads(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the necks and heads of models on VanillaNets, except those with attention.

    Attention may compute coordinates, and 16 bit are too few for them.
    """
    for owner in model.modules():
        if not isinstance(getattr(owner, 'backbone', None), VanillaNet):
            continue
        found = [getattr(owner, name, None) for name in HEADS]
        found += [getattr(getattr(owner, 'roi_head', None), name, None) for name in ROI_HEADS]
        for child in found:
            for module in child if isinstance(child, nn.ModuleList) else [child]:
                if isinstance(module, nn.Module) and not _has_attention(module):
                    yield module


def _has_attention(module: nn.Module) -> bool:
    return any('Attention' in type(child).__name__ for child in module.modules())
