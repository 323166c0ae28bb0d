"""Time the training form, the fused net and a net that was built in deploy form.

    python benchmarks/fusion.py [--arch 13] [--size 800 1280] [--repeats 11]

All are in eval mode with the same weights; they take turns in one run, each on the threads PyTorch
uses by default. Times are medians with the quartiles in brackets, in ms; ratios are medians of the
ratios within a round.
"""

import argparse
import copy
import statistics

import torch
from timing import describe, interleaved, print_machine
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import mmvanilla
from mmvanilla import VanillaNet


def trained(arch: str) -> VanillaNet:
    """Return a net in training form whose batch norms have seen data."""
    net = VanillaNet(arch, out_indices=(0, 1, 2, 3)).eval()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(1)
    return net


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', default='13', help='variant')
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1280), help='height and width')
    parser.add_argument('--repeats', type=int, default=11, help='timed rounds')
    args = parser.parse_args()
    torch.manual_seed(0)
    print_machine()
    nets = {'training form': trained(args.arch)}
    nets['fused'] = mmvanilla.fuse(copy.deepcopy(nets['training form']))
    nets['built in deploy form'] = VanillaNet(args.arch, out_indices=(0, 1, 2, 3), deploy=True)
    nets['built in deploy form'].load_state_dict(nets['fused'].state_dict())
    image = torch.randn(1, 3, *args.size)

    def call(net: VanillaNet) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return net.eval()(image)

    expected = call(nets['training form'])
    times = interleaved({name: lambda n=net: call(n) for name, net in nets.items()}, args.repeats)
    print(f'VanillaNet-{args.arch}, 1 x 3 x {args.size[0]} x {args.size[1]}, fp32, ms\n')
    print('| net | time | training form / this | this / built in deploy form | relative error |')
    print('|---|---|---|---|---|')
    for name, net in nets.items():
        errors = [
            ((found - right).norm() / right.norm()).item()
            for found, right in zip(call(net), expected, strict=True)
        ]
        gain = ratio(times['training form'], times[name])
        excess = ratio(times[name], times['built in deploy form'])
        cells = [name, describe(times[name]), f'{gain:.2f}', f'{excess:.2f}', f'{max(errors):.0e}']
        print('| ' + ' | '.join(cells) + ' |')


def ratio(times: list[float], others: list[float]) -> float:
    """Return the median of the ratios of times taken in the same round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


if __name__ == '__main__':
    main()
