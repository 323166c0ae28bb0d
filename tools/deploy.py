"""Fuse a trained model and export it: tools/deploy.py CONFIG CHECKPOINT --out FILE.pth.

Before a file is written, its outputs are compared with those of the model in training form, on
images of the test data, or on generated shapes if these data are missing. Exports are also compared
on other sizes, down to the smallest that the net accepts. 8-bit exports are compared with the fused
model by their metrics on the validation data.
"""

import argparse

from mmvanilla.cli import add_arguments, check_config, load_config, one_sentence_errors

SUFFIXES = dict(out='.pth', onnx='.onnx', openvino='.xml', export='.pt2')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, 'config')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint, FILE[#sha256=HASH] or https://...; without one --no-check exports random '
        'weights',
    )
    add_arguments(parser, '--data-root', '--cfg-options')
    parser.add_argument(
        '--out', metavar='FILE.pth', help='fused checkpoint, for a backbone with deploy=True'
    )
    parser.add_argument('--onnx', metavar='FILE.onnx', help='export to ONNX')
    parser.add_argument('--openvino', metavar='FILE.xml', help='export to OpenVINO')
    parser.add_argument('--export', metavar='FILE.pt2', help='export with torch.export')
    parser.add_argument(
        '--web', metavar='DIR', help='write a page that predicts photos in the browser'
    )
    parser.add_argument(
        '--web-runtime',
        metavar='DIR',
        help='the npm package onnxruntime-web for --web, such as node_modules/onnxruntime-web '
        '(default: download it with npm)',
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--features', action='store_true', help='export the backbone with its neck only'
    )
    what.add_argument(
        '--label-map', action='store_true', help="export a segmentor's labels, not its logits"
    )
    parser.add_argument(
        '--int8', action='store_true', help='quantize the files of --onnx and --openvino to 8 bits'
    )
    parser.add_argument(
        '--calibrate',
        type=int,
        metavar='N',
        help='number of training images to calibrate 8 bits with (default: 300, or all)',
    )
    parser.add_argument(
        '--check-images',
        type=int,
        metavar='N',
        help='number of validation images to test an 8-bit model on (default: all)',
    )
    parser.add_argument(
        '--max-drop',
        type=float,
        default=0.01,
        metavar='DROP',
        help='largest drop of AP, mIoU or top-1 (0 to 1) by 8 bits (default: %(default)s)',
    )
    parser.add_argument(
        '--no-check',
        dest='check',
        action='store_false',
        help='export without comparing, to measure speed with random weights; the file records '
        'that',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-4,
        help='largest relative difference of features by fusion (default: %(default)s)',
    )
    add_arguments(parser, '--warn-only', '--debug')
    args = parser.parse_args()
    targets = {name: getattr(args, name) for name in SUFFIXES if getattr(args, name)}
    if not (targets or args.web):
        parser.error('nothing to write; give --out, --onnx, --openvino, --export or --web')
    for name, file in targets.items():
        if not file.endswith(SUFFIXES[name]):
            parser.error(f'--{name} is {file!r}, expected a name that ends in {SUFFIXES[name]}')
    if not args.checkpoint and (args.check or args.out):
        parser.error('the checkpoint is missing; without one give --no-check, and no --out')
    if args.int8 and not (args.onnx or args.openvino or args.web):
        parser.error('--int8 needs --onnx or --openvino, or --web')
    if args.int8 and args.export:
        parser.error('--export writes no 8 bits; leave it out, or --int8')
    for name in ('calibrate', 'check_images'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            option = name.replace('_', '-')
            parser.error(f'--{option} is {getattr(args, name)}, expected at least 1')
    check_config(args)
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import copy
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from rich.console import Console

import mmvanilla
from mmvanilla import UserError
from mmvanilla.benchmark import in_turn
from mmvanilla.benchmark.model import build
from mmvanilla.checks import record_of_checkpoint, record_of_config
from mmvanilla.deploy.describe import describe
from mmvanilla.deploy.export import (
    compare,
    exportable,
    open_model,
    pasted,
    reference,
    relative_error,
    write_model,
)
from mmvanilla.deploy.export.pixels import ImageFunction
from mmvanilla.deploy.int8 import Accuracy, export_int8
from mmvanilla.deploy.load import build_model, set_form
from mmvanilla.deploy.predict import steps_of, tested_datasets
from mmvanilla.deploy.web import MODEL, check_page, read_runtime, write_page
from mmvanilla.safe_load.digest import hash_file, split_digest
from mmvanilla.safe_load.download import fetch
from mmvanilla.type_name import type_name
from mmvanilla.whole_files import writing

NUM_IMAGES = 3
SIZES = dict(Resize=('scale', 'scales', 'width', 'height'), Crop=('crop_size',))  # their arguments


def in_channels(model: BaseModel) -> int:
    """Return the channels of the images that a model takes."""
    net = model.backbone
    return net.in_channels if isinstance(net, mmvanilla.VanillaNet) else 3


def sample_images(cfg: Config, channels: int) -> tuple[list[torch.Tensor], str]:
    """Return the first images of a config's test data, or shapes if these data are missing.

    Args:
        cfg: The config.
        channels: Input channels of the net.

    Returns:
        Images from the test pipeline, float32 (1, C, H, W), BGR of 0 to 255; and a description.
    """
    images, source = tested_images(cfg), 'images of the test data'
    if not images:
        rng = np.random.default_rng(0)
        scenes = [
            mmvanilla.datasets.shapes.draw_scene(rng, short_side(cfg)).image
            for _ in range(NUM_IMAGES)
        ]
        images = [
            torch.from_numpy(s.transpose(2, 0, 1))[torch.arange(channels) % 3] for s in scenes
        ]
        source = 'embedded shapes'
    return [image[None].float().contiguous() for image in images], source


def tested_images(cfg: Config) -> list[torch.Tensor]:
    """Return the first images of a config's test data, if there are any."""
    try:
        outermost = tested_datasets(cfg)[0][0]
    except UserError:
        return []
    with suppress(FileNotFoundError):  # raised by data sets of class folders
        dataset = DATASETS.build(outermost)
        return [dataset[i]['inputs'] for i in range(min(NUM_IMAGES, len(dataset)))]
    return []


def short_side(cfg: Config) -> int:
    """Return the shorter side of images, in pixels, after the test pipeline of a config.

    It is the smallest of several scales, and 512 if the pipeline has no size.
    """
    side, steps = 512, []
    with suppress(UserError):  # no data in the config
        steps = steps_of(tested_datasets(cfg)[0])
    for step in steps:
        name = type_name(step)
        kind = 'Resize' if 'Resize' in name else 'Crop' if 'Crop' in name else None
        # A number, a pair of them or several pairs; -1 and infinity leave a side open.
        sizes = [np.ravel(step[key]) for key in SIZES.get(kind, ()) if step.get(key)]
        if sizes:
            side = int(min(number for number in np.concatenate(sizes) if number > 0))
    return side


def checkpoint_hash(file: str | None) -> str | None:
    """Return the SHA-256 hash of a checkpoint, a path or URL; None if it is not a file."""
    if not file:
        return None
    path = fetch(file) if file.startswith(('http://', 'https://')) else split_digest(file)[0]
    path = os.path.expanduser(path)
    return hash_file(path) if os.path.isfile(path) else None


def other_sizes(image: torch.Tensor, function: ImageFunction) -> list[torch.Tensor]:
    """Resize an image to odd small sizes, from the net's stride on."""
    side = max(function.stride, function.min_size)
    sizes = [(side, side), (side + 1, 5 * side + 3), (3 * side + 5, 2 * side + 3)]
    return [F.interpolate(image, size, mode='bilinear').round() for size in sizes]


def write_checkpoint(
    cfg: Config, model: BaseModel, meta: dict, images: list[torch.Tensor], args: argparse.Namespace
) -> str:
    """Write the fused checkpoint, and read it into a net in deploy form.

    Raises:
        UserError: If its features (logits of a classifier) differ from the training form's.
    """
    fused = mmvanilla.fuse(copy.deepcopy(model))
    cfg = copy.deepcopy(cfg)
    set_form(cfg.model, deploy=True)
    with writing(args.out) as path:
        meta = dict(meta, mmvanilla=mmvanilla.__version__)
        torch.save(dict(meta=meta, state_dict=fused.state_dict()), path)
        built = MODELS.build(cfg.model).eval()
        built.load_state_dict(CheckpointLoader.load_checkpoint(path, 'cpu', 'silent')['state_dict'])
        features = not hasattr(model, 'head')  # a classifier's head is fused, too
        differences = []
        for image in images:
            expected = reference(model, image, features)
            for name, found in reference(built, image, features).items():
                relative = relative_error(found, expected[name])
                differences.append((relative, abs(found - expected[name]).max()))
        relative, absolute = np.max(differences, axis=0)  # NaN if there is one
        text = f'largest difference {absolute:.1e}, relative {relative:.1e}'
        if not relative <= args.tolerance:  # NaN is refused, too
            raise UserError(
                f'{args.out!r} is not written: {text}, expected at most {args.tolerance:g} relative'
            )
    return text


def export(
    model: BaseModel,
    function: ImageFunction,
    file: str,
    images: list[torch.Tensor],
    features: bool,
    label_map: bool,
    **details: Any,
) -> str:
    """Export a model and compare the file with it, unless the details have ``checked=False``.

    Raises:
        UserError: If the results of an image differ.
    """
    results = []

    def check(written: Callable) -> None:
        compared = [*images, *other_sizes(images[0], function)] if details['checked'] else []
        if compared and function.batched:
            compared.append(torch.cat([images[0], images[0].flip(3)]))
        for image in compared:
            shape = tuple(image.shape[-2:])
            expected = reference(model, image, features, label_map)
            found = pasted(written(image.numpy()), shape, function.limits.mask_thr)
            result = compare(found, expected, function.limits)
            if not result.agrees:
                raise UserError(
                    f'{file!r} is not written, since it differs from PyTorch on an image of '
                    f'{shape[0]} x {shape[1]} pixels: {result.text}'
                )
            number = f'{len(image)} x ' * (len(image) > 1)
            results.append(f'  {number}{shape[0]} x {shape[1]}: {result.text}')

    write_model(function, images[0], file, check, **details)
    return '\n'.join(results) or '  not compared'


def time_calls(calls: dict[str, Callable], images: list[torch.Tensor]) -> dict[str, list[float]]:
    """Return the seconds per image, median and range; the calls take turns."""
    count = len(images)
    prepares = {
        name: lambda turn, call=call: lambda: call(images[turn % count])
        for name, call in calls.items()
    }
    times = in_turn(prepares, repeat=count, warmup=count)
    return {name: [ms / 1e3 for ms in (t.median, *t.range)] for name, t in times.items()}


def size(file: str) -> str:
    """Return the size of a file and its weights."""
    weights = f'{file}.data' if file.endswith('.onnx') else f'{os.path.splitext(file)[0]}.bin'
    files = [file, weights] if file.endswith(('.onnx', '.xml')) else [file]
    return f'{sum(os.path.getsize(f) for f in files if os.path.exists(f)) / 2**20:.1f} MiB'


def main(args: argparse.Namespace) -> None:
    """Fuse, export, compare."""
    mmvanilla.safe_loading()
    console = Console(soft_wrap=True, highlight=False)
    with one_sentence_errors(args.debug, UserError, OSError, ValueError):
        cfg = load_config(args)
        if args.checkpoint:
            model, meta = build_model(cfg, args.checkpoint, args.warn_only)
        else:
            init_default_scope(cfg.default_scope)
            model, meta = build(cfg, 'fused'), {}
        targets = [file for file in (args.onnx, args.openvino, args.export) if file]
        if args.web:
            targets.append(os.path.join(args.web, MODEL))
            runtime = read_runtime(args.web_runtime)
        what = (args.features, args.label_map)
        # First find out whether the model can be fused and exported.
        fused = mmvanilla.fuse(copy.deepcopy(model))
        function = exportable(model, *what) if targets else None
        images, source = sample_images(cfg, in_channels(model))
        if args.check and not args.int8:
            console.print(f'compared on {len(images)} {source}')
        record = record_of_config(cfg, 'test')
        if classes := record_of_checkpoint(dict(meta=meta)).classes:
            record = replace(record, classes=classes)
        checked = args.check and not (args.int8 and args.features)  # features have no metrics
        if args.out:
            with console.status(f'writing {args.out}'):
                meta.setdefault('record', record.to_dict())
                text = write_checkpoint(cfg, model, meta, images, args)
            console.print(f'{args.out} ({size(args.out)}): {text}')
        details: dict[str, Any] = {}
        if function:
            details = dict(
                describe(function, cfg),
                package=f'mmvanilla {mmvanilla.__version__}',
                classes=record.classes,
                precision='int8' if args.int8 else 'fp32',
                checkpoint=dict(sha256=checkpoint_hash(args.checkpoint)),
                checked=checked,
                record=record.to_dict(),
            )
        if args.web:
            check_page(details)
        if args.int8:
            accuracy = None
            if checked:
                accuracy = Accuracy(cfg, fused, args.check_images, args.max_drop, args.warn_only)
            export_int8(function, targets, cfg, args.calibrate, accuracy, console, **details)
        for file in [] if args.int8 else targets:
            with console.status(f'writing {file}'):
                text = export(model, function, file, images, *what, **details)
            console.print(f'{file}:\n{text}')
        if args.web:
            write_page(args.web, details, runtime)
            console.print(f'python -m http.server --directory {args.web}  # serves the page')
        if targets:
            calls = {'PyTorch, fused': lambda image: reference(fused, image, *what)}
            for file in targets:
                run = open_model(file, trust=True)
                calls[f'{file} ({size(file)})'] = lambda image, run=run: run(image.numpy())
            with console.status('measuring'):
                times = time_calls(calls, images)
            for name, (median, low, high) in times.items():
                console.print(f'{name}: {median:.3f} s an image ({low:.3f}-{high:.3f})')


if __name__ == '__main__':
    main(args)
