"""Time a training step of the backbone and its memory: plain, as shipped, mixed precision, with_cp.

    python benchmarks/training.py [--arch 13] [--size 640 640] [--repeat 5] [--out result.json]

A step is a forward pass in the training form at act_learn 1, a loss that reaches every level, and
its backward pass. Plain is the same net with PyTorch's own gradient of the depthwise convolutions,
which on CUDA is the shipped one, so that it is left out there. bf16 is autocast. Every route has a
process of its own; the routes take turns. Memory is what the weights and one step hold at most.
"""

import argparse
from functools import partial

import side_by_side
import torch
import torch.nn.functional as F
from side_by_side import Call
from torch import Tensor, nn

from mmvanilla import VanillaNet
from mmvanilla.benchmark.peak_memory import peak_memory

ROUTES = ['plain fp32', 'fp32', 'fp32, with_cp', 'plain bf16', 'bf16', 'bf16, with_cp']


def plain_activation(act: nn.Module, x: Tensor) -> Tensor:
    """Compute a series activation by PyTorch's convolution, whose backward pass is its own."""
    padding = act.weight.shape[-1] // 2
    return act.bn(F.conv2d(F.relu(x), act.weight, padding=padding, groups=len(act.weight)))


def make(route: str, args: argparse.Namespace) -> tuple[Call, dict]:
    """Return the step of a route, its peak of memory and its loss."""
    torch.manual_seed(0)
    net = VanillaNet(args.arch, act_num=args.act_num, with_cp='with_cp' in route)
    if route.startswith('plain'):
        for act in [net.stem2[-1], *(stage.act for stage in net.stages)]:
            act.forward = partial(plain_activation, act)
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
    side_by_side.add_net_arguments(parser)
    side_by_side.add_arguments(parser)
    parser.set_defaults(size=[640, 640])
    args = parser.parse_args()
    known = [name for name in ROUTES if args.device == 'cpu' or not name.startswith('plain')]
    routes = side_by_side.pick(known, args, parser)
    rows = side_by_side.measure(make, routes, args)
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
