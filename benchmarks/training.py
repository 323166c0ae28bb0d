"""Time a training step of the backbone and its memory: plain, as shipped, mixed precision, with_cp.

    python benchmarks/training.py [--arch 13] [--size 640 640] [--repeat 5] [--out result.json]

A step is a forward pass in the training form at act_learn 1, a loss that reaches every level, and
its backward pass. Plain is the same net with PyTorch's own gradient of the depthwise convolutions,
which on CUDA is the shipped one, so that it is left out there. bf16 is autocast. Every route has a
process of its own; the routes take turns. Memory is what the weights and one step hold at most.
"""

import argparse

import side_by_side
import torch
import torch.nn.functional as F
from rich.console import Console
from side_by_side import Call
from torch import Tensor

from mmvanilla import VanillaNet
from mmvanilla.benchmark.peak_memory import peak_memory
from mmvanilla.cli.one_sentence import one_sentence_errors
from mmvanilla.errors import UserError
from mmvanilla.models import layers

ROUTES = ['plain fp32', 'fp32', 'fp32, with_cp', 'plain bf16', 'bf16', 'bf16, with_cp']


def plain_depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve as PyTorch does, backward too."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def make(route: str, args: argparse.Namespace) -> tuple[Call, dict]:
    """Return the step of a route, its peak of memory and its loss."""
    if route.startswith('plain'):
        layers.depthwise_conv2d = plain_depthwise_conv2d
    torch.manual_seed(0)
    net = VanillaNet(args.arch, act_num=args.act_num, with_cp='with_cp' in route)
    net.to(args.device, memory_format=torch.channels_last).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.batch_size, 3, *args.size, generator=generator).to(args.device)

    def step() -> float:
        with torch.autocast(args.device, torch.bfloat16, enabled='bf16' in route):
            outs = net(x)
        loss = sum(out.float().square().mean() for out in outs)
        loss.backward()
        net.zero_grad()
        return loss.item()

    loss = step()
    return step, dict(loss=loss, memory=peak_memory(net, step, torch.device(args.device)))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', default='13', help='variant (default: %(default)s)')
    parser.add_argument('--act-num', type=int, default=4, help='n (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N')
    side_by_side.add_arguments(parser)
    parser.set_defaults(size=[640, 640])
    args = parser.parse_args()
    known = [name for name in ROUTES if args.device == 'cpu' or not name.startswith('plain')]
    routes = side_by_side.pick(known, args, parser)
    with one_sentence_errors(UserError):
        rows = side_by_side.measure(make, routes, args, Console(stderr=True))
    first = next(iter(rows.values()), None)
    columns = {
        'memory, MiB': lambda row: f'{row["memory"] / 2**20:.0f}',
        'of the first': lambda row: f'{row["memory"] / first["memory"]:.0%}',
        'loss': lambda row: f'{row["loss"]:.5f}',
    }
    side_by_side.show(rows, columns, args)
    side_by_side.write(rows, args)


if __name__ == '__main__':
    main()
