"""One call that makes a trained model as fast as it gets, for inference on the device it is on."""

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ...errors import UserError, require
from ...installed import mmcv_is_compiled
from ...models import VanillaNet, fuse
from .cuda_graphs import GraphCache
from .fast_layers import cpu_layer, cuda_layer
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
    """Make a model with a VanillaNet fast, in place, for inference on the device it is on.

    Every VanillaNet, the batch norms of necks and heads included, is fused; its layers become
    oneDNN's primitives in its own layout on the CPU, where hooks within the net see tensors that
    ``to_dense()`` makes ordinary ones; on CUDA, channels-last, matrix products and the fused series
    activation. In 16 bit necks and heads compute in it too. Inputs, results and the decoding of
    boxes stay in float32. On Linux the process keeps freed memory from then on, see
    ``malloc.keep_freed_memory``. Images are normalised as before: batches are padded with
    normalised zeros, so folding the normalisation into the stem would not be exact.

    The net has no parameters any more: load weights and average them before, and neither train nor
    save the model nor move it to another device afterwards.

    Args:
        model: A backbone, a detector, a segmentor, or what wraps one; it is brought to eval mode.
        dtype: ``fp32``, ``fp16``, ``bf16`` or torch's names; None takes float16 on CUDA, bfloat16
            on a CPU with instructions for it, else float32.
        compile: True compiles the backbone by ``torch.compile``, once for all sizes of image; only
            on CUDA. 'auto' compiles nothing: nothing between the layers is left to be fused.
        cuda_graph: Replay the backbone from a CUDA graph for each of the last 8 shapes of input
            that come more than once. Replays leave out the hooks of stages, and calls must follow
            each other on one stream. Without memory for a graph a warning says so, and images of
            that shape and of further ones are computed without.
        report: Print what each step changed in speed and error of the (first) net, at 800 x 1280.

    Returns:
        The model itself. A second call changes nothing.

    Raises:
        UserError: If there is no VanillaNet, it cannot be fused, or the device cannot do what is
            asked for, and nothing has been changed; or if the fused weights do not fit the type.
    """
    nets = [module for module in model.modules() if isinstance(module, VanillaNet)]
    if not nets:
        raise UserError(f'{type(model).__name__} has no VanillaNet, which accelerate() is for')
    known = isinstance(compile, bool) or compile == 'auto'
    require('compile', compile, known, "True, False or 'auto'")
    require('cuda_graph', cuda_graph, isinstance(cuda_graph, bool), 'True or False')
    for net in nets:
        if isinstance(net.forward, FastForward):
            net.forward.check_again(dtype, compile, cuda_graph)
    nets = [net for net in nets if not isinstance(net.forward, FastForward)]
    if not nets:
        return model
    device = next(nets[0].parameters()).device
    dtype = choose_dtype(dtype, device)
    _check_device(device, compile is True, cuda_graph)
    fuse(model, neck_and_heads=True).eval()
    for net in nets:
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
    for part in _parts(model):
        part.to(memory_format=torch.channels_last)
        if mmcv_is_compiled():
            part.register_forward_hook(contiguous)
        if dtype != torch.float32 and not isinstance(part.forward, LowPrecision):
            part.forward = LowPrecision(part, dtype, device.type)
    if steps:
        steps.add(f'fast layers, {str(dtype).removeprefix("torch.")}', nets[0])
    if device.type == 'cpu' and keep_freed_memory() and steps:
        steps.add('freed memory kept', nets[0])
    if steps:
        steps.print()
    return model


class FastForward:
    """Takes the place of ``forward`` of a net with fast layers: float32 in and out."""

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
        """Return the features of images (N, in_channels, H, W) as the net does, in float32.

        Raises:
            UserError: If the net is in training mode, or the image is elsewhere or does not fit.
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

    def check_again(
        self, dtype: torch.dtype | str | None, compile: bool | str, cuda_graph: bool
    ) -> None:
        """Check that a second call asks for what the first did.

        Raises:
            UserError: If it does not.
        """
        wanted = choose_dtype(dtype, torch.device(self.device))
        if (wanted, compile is True, cuda_graph) != (self.dtype, *self.options):
            raise UserError(
                f'the model is accelerated in {self.dtype} with compile={self.options[0]} and '
                f'cuda_graph={self.options[1]}; build it anew for other options'
            )

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return type(self.net).forward(self.net, x)


def _check_device(device: torch.device, compile: bool, cuda_graph: bool) -> None:
    """Check that a device is known and can do what is asked for."""
    if device.type not in ('cpu', 'cuda'):
        raise UserError(f'the model is on {device}, expected the CPU or CUDA')
    if device.type == 'cpu' and not torch.backends.mkldnn.is_available():
        raise UserError('this PyTorch is built without oneDNN, which accelerate() needs on the CPU')
    if device.type == 'cpu' and (compile or cuda_graph):
        option = 'compile' if compile else 'cuda_graph'
        raise UserError(f'{option}=True needs CUDA, and the model is on the CPU; leave it out')
    if compile and find_spec('triton') is None:
        raise UserError('compile=True needs Triton: pip install triton')


def _replace_layers(net: VanillaNet, dtype: torch.dtype, device: torch.device) -> None:
    """Put fast layers into a net's stem and blocks, which stay themselves and keep their hooks."""
    build = cuda_layer if device.type == 'cuda' else cpu_layer
    stem = build(net.stem[0], nn.Identity(), net.stem[1], dtype)
    layers = [build(block.conv, block.pool, block.act, dtype) for block in net.stages]
    net.stem[0], _, net.stem[1] = stem  # all are built, so that no net is left half replaced
    for block, layer in zip(net.stages, layers, strict=True):
        block.conv, block.pool, block.act = layer
    net.eval()


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """Yield necks and heads of the models on VanillaNets, but for those with attention.

    Such a head may compute coordinates, for which 16 bit are too few.
    """
    for owner in model.modules():
        if not isinstance(getattr(owner, 'backbone', None), VanillaNet):
            continue
        found = [getattr(owner, name, None) for name in HEADS]
        found += [getattr(getattr(owner, 'roi_head', None), name, None) for name in ROI_HEADS]
        for part in found:
            for each in part if isinstance(part, nn.ModuleList) else [part]:
                if isinstance(each, nn.Module) and not _has_attention(each):
                    yield each


def _has_attention(module: nn.Module) -> bool:
    return any('Attention' in type(child).__name__ for child in module.modules())
