"""Measure time and memory of the backbone's training step, also with autocast and with_cp.

    python benchmarks/training.py [--arch 13] [--size 640 640] [--repeat 5] [--out result.json]

A step is a forward pass in training form at act_learn 1, a loss over all levels, and the backward
pass. Plain uses PyTorch's gradient of the depthwise convolutions; on CUDA the package does too, so
plain is left out there. bf16 is autocast. Each route has its own process; the routes take turns.
Memory is the weights plus the peak of one step.
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
    """Compute a series activation by PyTorch's convolution and its gradient."""
    padding = act.weight.shape[-1] // 2
    return act.bn(F.conv2d(F.relu(x), act.weight, padding=padding, groups=len(act.weight)))


def make(route: str, args: argparse.Namespace) -> tuple[Call, dict]:
    """Return the step of a route, its peak memory and its loss."""
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
    """Run the command."""
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
