"""Time average RoIAlign: ours, torchvision's and, if installed, compiled mmcv's.

    python benchmarks/roi_align.py [--boxes 250] [--bins 7] [--repeats 11] [--channels-last]

The feature maps have 256 channels on levels P2 to P5 of an 800 x 1280 image; every level gets boxes
of the sizes that FPN assigns to it. The operators take turns in one run, with PyTorch's default
threads. Times are medians with quartiles in brackets, in ms, and include the allocation of the
output. Differences are the largest from torchvision.
"""

import argparse
import statistics
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from mmvanilla.benchmark import in_turn, machine
from mmvanilla.benchmark.tables import describe_machine, markdown
from mmvanilla.mmcv_ops import ext

# Side of the boxes on each level in pixels. FPN assigns by the root of the area: level
# 4 + log2(side / 224), at most P5 here.
LEVELS = {'P2': (16, 112), 'P3': (112, 224), 'P4': (224, 448), 'P5': (448, 800)}
STRIDES = {'P2': 4, 'P3': 8, 'P4': 16, 'P5': 32}
IMAGE = (800, 1280)
CHANNELS = 256
WAYS = ('ours', 'torchvision', 'mmcv')
# Forward times of compiled mmcv 2.1.0 in ms, for the last printed line.
PUBLISHED = {'P2': 200, 'P3': 140, 'P4': 110, 'P5': 100}


def sample_boxes(count: int, sides: tuple[int, int]) -> Tensor:
    """Return boxes (count, 5) inside the image, of sides in pixels and aspect 1:2 to 2:1."""
    height, width = IMAGE
    side = torch.empty(count).uniform_(*sides)
    stretch = torch.empty(count).uniform_(0.5, 2).sqrt()
    w, h = (side * stretch).clamp(max=width), (side / stretch).clamp(max=height)
    x, y = torch.rand(count) * (width - w), torch.rand(count) * (height - h)
    return torch.stack([torch.zeros(count), x, y, x + w, y + h], dim=1)


def through(module: object, features: Tensor, rois: Tensor, bins: int, scale: float) -> tuple:
    """Return the forward and backward call of a module with mmcv's signatures."""
    options = dict(
        aligned_height=bins,
        aligned_width=bins,
        spatial_scale=scale,
        sampling_ratio=0,
        pool_mode=1,
        aligned=True,
    )
    unused = features.new_zeros(0)

    def forward() -> Tensor:
        output = features.new_zeros(len(rois), CHANNELS, bins, bins)
        module.roi_align_forward(features, rois, output, unused, unused, **options)
        return output

    def backward(grad: Tensor) -> Tensor:
        grad_input = grad.new_zeros(features.shape)
        module.roi_align_backward(grad, rois, unused, unused, grad_input, **options)
        return grad_input

    return forward, backward


def through_torchvision(features: Tensor, rois: Tensor, bins: int, scale: float) -> tuple:
    """Return the forward and backward call of torchvision's kernels."""
    kernels = torch.ops.torchvision

    def forward() -> Tensor:
        return kernels.roi_align(features, rois, scale, bins, bins, 0, True)

    def backward(grad: Tensor) -> Tensor:
        return kernels._roi_align_backward(grad, rois, scale, bins, bins, *features.shape, 0, True)

    return forward, backward


def compiled_mmcv() -> object | None:
    """Return mmcv's compiled module; None without one."""
    try:
        from mmcv import _ext
    except ImportError:
        return None
    return None if _ext is ext else _ext


def measure(level: str, args: argparse.Namespace, compiled: object | None) -> Iterator[list[str]]:
    """Yield the table's rows for one level."""
    size = [length // STRIDES[level] for length in IMAGE]
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    features = torch.randn(1, CHANNELS, *size).contiguous(memory_format=layout)
    rest = (sample_boxes(args.boxes, LEVELS[level]), args.bins, 1 / STRIDES[level])
    ways = {
        'ours': through(ext, features, *rest),
        'torchvision': through_torchvision(features, *rest),
    }
    if compiled:
        # mmcv reads any memory as contiguous.
        ways['mmcv'] = through(compiled, features.contiguous(), *rest)
    grad = torch.randn(args.boxes, CHANNELS, args.bins, args.bins)
    forwards = {way: forward for way, (forward, _) in ways.items()}
    backwards = {way: partial(backward, grad) for way, (_, backward) in ways.items()}
    for name, calls in (('forward', forwards), ('backward', backwards)):
        reference = calls['torchvision']()
        difference = max((call() - reference).abs().max().item() for call in calls.values())
        prepares = {way: lambda turn, call=call: call for way, call in calls.items()}
        times = {way: found.values for way, found in in_turn(prepares, args.repeats).items()}
        cells = [describe(times[way]) if way in times else 'not installed' for way in WAYS]
        rival = statistics.median(times['mmcv' if compiled else 'torchvision'])
        gain = f'{rival / statistics.median(times["ours"]):.1f}x'
        yield [level, name, *cells, gain, f'{difference:.0e}']


def describe(times: list[float]) -> str:
    """Return the median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4)
    return f'{middle:.1f} ({low:.1f}-{high:.1f})'


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--boxes', type=int, default=250, help='boxes per level')
    parser.add_argument('--bins', type=int, default=7, help='bins along each side of a box')
    parser.add_argument('--repeats', type=int, default=11, help='timed calls of each way')
    parser.add_argument('--channels-last', action='store_true', help='channels-last features')
    args = parser.parse_args()
    torch.manual_seed(0)
    print(describe_machine(machine.describe()))
    print(f'{args.boxes} boxes per level, {args.bins} x {args.bins} bins, ms')
    compiled = compiled_mmcv()
    rival = 'compiled mmcv' if compiled else 'torchvision'
    header = ['level', 'pass', *WAYS, f'gain over {rival}', 'difference']
    print(markdown(header, [row for level in LEVELS for row in measure(level, args, compiled)]))
    figures = ', '.join(f'{level} {ms} ms' for level, ms in PUBLISHED.items())
    print(f'To beat, compiled mmcv 2.1.0 forward with 250 boxes, 7 x 7 bins, 2 cores: {figures}')


if __name__ == '__main__':
    main()
