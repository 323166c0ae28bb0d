"""Convert published weights to a clean file of this package, or back.

tools/convert_checkpoint.py vanillanet_13.pth vanillanet13.safetensors
tools/convert_checkpoint.py vanillanet13.safetensors published.pth --published
"""

import argparse

from mmvanilla.cli import add_arguments, one_sentence_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', help='checkpoint in any published format or of this package')
    parser.add_argument('target', help='file to write, .pth or .safetensors')
    parser.add_argument(
        '--published', action='store_true', help="write the authors' names instead of OpenMMLab's"
    )
    add_arguments(parser, '--debug')
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import os
import re

import torch
from mmengine.runner import CheckpointLoader, load_state_dict

from mmvanilla import ARCHS, UserError, VanillaNet, __version__, safe_loading
from mmvanilla.whole_files import writing

ACTS = r'(stem\.1|stem2\.2|stages\.\d+\.act)\.weight'


def load(file: str) -> dict:
    """Return the tensors of a checkpoint under OpenMMLab's names."""
    checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
    return checkpoint.get('state_dict', checkpoint)


def save(state_dict: dict, file: str, published: bool, net: VanillaNet) -> float:
    """Write a checkpoint after comparing its outputs with those of ``net``.

    Returns:
        The largest difference of the outputs, on a random image.
    """
    with writing(file) as path:
        if file.endswith('.safetensors'):
            from safetensors.torch import save_file

            tensors = {name: value.contiguous() for name, value in state_dict.items()}
            save_file(tensors, path, metadata=dict(mmvanilla=__version__))
        elif published:
            torch.save(to_published(state_dict), path)
        else:
            torch.save(dict(meta=dict(mmvanilla=__version__), state_dict=state_dict), path)
        difference = largest_difference(net, build(load(path), path))
        if difference != 0:  # nan included
            raise UserError(
                f'{file!r} is not written, since its outputs would differ by {difference:g}'
            )
    return difference


def to_published(state_dict: dict) -> dict:
    """Rename the tensors of a classifier or detector as in the authors' files."""
    weights = {name: value for name, value in state_dict.items() if '_act_learn' not in name}
    if not any(name.startswith('head.') for name in weights):
        return dict(meta={}, state_dict=weights)
    return dict(
        model={n.removeprefix('backbone.').removeprefix('head.'): v for n, v in weights.items()}
    )


def build(state_dict: dict, file: str) -> VanillaNet:
    """Build the net of a state dict and load the weights.

    A state dict does not show strides and groups of norms. Strides are those of the variant with
    the same widths, else 1. Without batch statistics the norms have one group.
    """
    tensors = {name.removeprefix('backbone.'): value for name, value in state_dict.items()}
    deploy = 'stem.0.weight' in tensors
    stem, conv = ('stem.0', 'conv') if deploy else ('stem1.0', 'conv2.0')
    dims = [len(tensors[f'{stem}.weight'])] if f'{stem}.weight' in tensors else []
    while f'stages.{len(dims) - 1}.{conv}.weight' in tensors:
        dims.append(len(tensors[f'stages.{len(dims) - 1}.{conv}.weight']))
    if len(dims) < 2:
        raise UserError(f'{file!r} holds no weights of a VanillaNet; check the file')
    acts = [value for name, value in tensors.items() if re.fullmatch(ACTS, name)]
    batch = any(name.endswith('running_mean') for name in tensors)
    affine = any(re.fullmatch(r'stem1\.1\.(weight|bias)', name) for name in tensors)
    norm = dict(type='BN') if batch else dict(type='GN', num_groups=1)
    known = [arch['strides'] for arch in ARCHS.values() if list(arch['dims']) == dims]
    strides = known[0] if known else [1] * (len(dims) - 1)
    net = VanillaNet(
        dict(dims=dims, strides=strides),
        out_indices=[sum(stride > 1 for stride in strides)],
        act_num=max(value.shape[-1] for value in acts) // 2,
        in_channels=tensors[f'{stem}.weight'].shape[1],
        norm_cfg=dict(norm, affine=affine),
        deploy=deploy,
    )
    load_state_dict(net, state_dict, logger='silent')
    return net.eval()


@torch.no_grad()
def largest_difference(net: VanillaNet, other: VanillaNet) -> float:
    """Return the largest difference of two nets' last outputs on a random image."""
    side = 2 * net.min_size
    image = torch.randn(1, net.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    return (net(image)[-1] - other(image)[-1]).abs().max().item()


def main(args: argparse.Namespace) -> None:
    """Convert a checkpoint and compare the outputs of both files."""
    safe_loading()
    with one_sentence_errors(args.debug, Exception):
        if not args.target.endswith(('.pth', '.safetensors')):
            raise UserError(f'target is {args.target!r}, expected a name in .pth or .safetensors')
        if args.published and not args.target.endswith('.pth'):
            raise UserError(f'target is {args.target!r}, but --published writes .pth files only')
        state_dict = load(args.source)
        net = build(state_dict, args.source)
        difference = save(state_dict, args.target, args.published, net)
        print(
            f'{args.target}: {len(state_dict)} tensors, '
            f'{os.path.getsize(args.target) / 2**20:.1f} MiB, '
            f'largest difference of outputs {difference:g}'
        )


if __name__ == '__main__':
    main(args)
