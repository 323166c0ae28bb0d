"""Fuse a trained model and export it: tools/deploy.py CONFIG CHECKPOINT --out FILE.pth.

Everything that is written is first compared with the model in training form, as mmdet or mmseg runs
it, on images of the config's test data, or on embedded shapes where these data are missing.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from rich.console import Console

import mmvanilla
from mmvanilla.cli.config import add_cfg_options, add_config, add_data_root, load_config
from mmvanilla.cli.one_sentence import one_sentence_errors
from mmvanilla.deploy.export import (
    compare,
    exportable,
    open_model,
    pasted,
    reference,
    sample_images,
    write_model,
)
from mmvanilla.deploy.export.agreement import relative_error
from mmvanilla.deploy.files import writing
from mmvanilla.deploy.load import build_model, set_form
from mmvanilla.errors import UserError
from mmvanilla.safe_load import load_from_local

NUM_IMAGES = 3
SUFFIXES = dict(out='.pth', onnx='.onnx', openvino='.xml', export='.pt2')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint, FILE[#sha256=HASH] or https://...')
    add_data_root(parser)
    add_cfg_options(parser)
    parser.add_argument(
        '--out', metavar='FILE.pth', help='fused checkpoint, for a backbone with deploy=True'
    )
    parser.add_argument('--onnx', metavar='FILE.onnx', help='export to ONNX')
    parser.add_argument('--openvino', metavar='FILE.xml', help='export to OpenVINO')
    parser.add_argument('--export', metavar='FILE.pt2', help='export with torch.export')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--features', action='store_true', help='export the backbone with its pyramid only'
    )
    what.add_argument(
        '--label-map', action='store_true', help="export a segmentor's labels, not its logits"
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-4,
        help='largest relative difference of features by fusion (default: %(default)s)',
    )
    args = parser.parse_args()
    targets = {name: getattr(args, name) for name in SUFFIXES if getattr(args, name)}
    if not targets:
        parser.error('nothing to write; give --out, --onnx, --openvino or --export')
    for name, file in targets.items():
        if not file.endswith(SUFFIXES[name]):
            parser.error(f'--{name} is {file!r}, expected a name that ends in {SUFFIXES[name]}')
    return args


def write_checkpoint(
    cfg: Config, model: BaseModel, meta: dict, images: list[torch.Tensor], args: argparse.Namespace
) -> str:
    """Write the fused checkpoint; it is read back into a net that was built in deploy form.

    Raises:
        UserError: If its features (logits of a classifier) are not those of the training form.
    """
    fused = mmvanilla.fuse(copy.deepcopy(model))
    cfg = copy.deepcopy(cfg)
    set_form(cfg.model, deploy=True)
    with writing(args.out) as path:
        meta = dict(meta, mmvanilla=mmvanilla.__version__)
        torch.save(dict(meta=meta, state_dict=fused.state_dict()), path)
        built = MODELS.build(cfg.model).eval()
        built.load_state_dict(load_from_local(path)['state_dict'])
        features = not hasattr(model, 'head')  # of a classifier the head was fused, too
        relative, absolute = 0.0, 0.0
        for image in images:
            expected = reference(model, image, features)
            for name, found in reference(built, image, features).items():
                relative = max(relative, relative_error(found, expected[name]))
                absolute = max(absolute, float(abs(found - expected[name]).max()))
        text = f'largest difference {absolute:.1e}, relative {relative:.1e}'
        if not relative <= args.tolerance:  # nan included
            raise UserError(
                f'{args.out!r} is not written: {text}, expected at most {args.tolerance:g} relative'
            )
    return text


def export(
    model: BaseModel, file: str, images: list[torch.Tensor], features: bool, label_map: bool
) -> str:
    """Export a model and compare what was written with it.

    Raises:
        UserError: If the results of an image differ.
    """
    results = []

    def check(written: Callable) -> None:
        for image in images:
            shape = tuple(image.shape[-2:])
            expected = reference(model, image, features, label_map)
            found = pasted(written(image.numpy()), shape)
            result = compare(found, expected)
            if not result.agrees:
                raise UserError(
                    f'{file!r} is not written, since it differs from PyTorch on an image of '
                    f'{shape[0]} x {shape[1]} pixels: {result.text}'
                )
            results.append(f'  {shape[0]} x {shape[1]}: {result.text}')

    write_model(exportable(model, features, label_map), images[0], file, check)
    return '\n'.join(results)


def median_time(function: Callable[[Any], object], inputs: list) -> float:
    """Return the median of the seconds that an input takes, after a first run."""
    seconds = []
    for value in [*inputs, *inputs]:
        start = time.perf_counter()
        function(value)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[len(inputs) :])


def size(file: str) -> str:
    """Return the size of a file, with the weights beside it."""
    weights = f'{file}.data' if file.endswith('.onnx') else f'{os.path.splitext(file)[0]}.bin'
    files = [file, weights] if file.endswith(('.onnx', '.xml')) else [file]
    return f'{sum(os.path.getsize(f) for f in files if os.path.exists(f)) / 2**20:.1f} MiB'


def main() -> None:
    """Fuse, export, compare."""
    args = parse_args()
    mmvanilla.safe_loading()
    console = Console(soft_wrap=True, highlight=False)
    with one_sentence_errors(UserError, FileNotFoundError, ValueError):
        cfg = load_config(args)
        model, meta = build_model(cfg, args.checkpoint)
        mmvanilla.fuse(copy.deepcopy(model))  # refuses first, before anything takes its time
        images, source = sample_images(cfg, NUM_IMAGES)
        console.print(f'compared on {len(images)} {source}')
        if args.out:
            with console.status(f'writing {args.out}'):
                text = write_checkpoint(cfg, model, meta, images, args)
            console.print(f'{args.out} ({size(args.out)}): {text}')
        targets = [file for file in (args.onnx, args.openvino, args.export) if file]
        if targets:
            what = (args.features, args.label_map)
            fused = mmvanilla.fuse(copy.deepcopy(model))
            seconds = median_time(lambda image: reference(fused, image, *what), images)
            console.print(f'PyTorch, fused: {seconds:.3f} s an image')
        for file in targets:
            with console.status(f'writing {file}'):
                text = export(model, file, images, *what)
            seconds = median_time(open_model(file, trust=True), [image.numpy() for image in images])
            console.print(f'{file} ({size(file)}): {seconds:.3f} s an image\n{text}')


if __name__ == '__main__':
    main()
