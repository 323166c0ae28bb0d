"""Measure the speed of models side by side: tools/fps.py CONFIG [CONFIG ...].

The models take turns in one run, in separate processes, so that a drift of the machine affects
all of them. Every form is a row: `--no-fuse --fuse` compares the training form with the fused net,
`--fuse --deploy` the fused net with a net built in deploy form, `--fuse --accelerate` with the
accelerated one. `CONFIG@CHECKPOINT` loads weights. Exported files follow their config: `CONFIG
model.xml model.xml@bf16`.
"""

import argparse

from mmvanilla.cli import (
    EXPORTED,
    MEASURING,
    add_arguments,
    load_config,
    one_sentence_errors,
    set_device,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s [options] CONFIG[@CHECKPOINT] [EXPORTED ...] [CONFIG ...]',
        description=__doc__.split('\n\n')[0],
        epilog=__doc__.split('\n\n')[1],
    )
    parser.add_argument(
        'models',
        nargs='+',
        metavar='CONFIG',
        help='config file (Python, which is run), CONFIG@CHECKPOINT, or an exported file after its '
        'config, with @bf16 or another --precision after its name',
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='size of the images (default: 800 1280)',
    )
    what.add_argument('--images', metavar='DIR', help="real images, through each config's pipeline")
    parser.add_argument(
        '--part',
        choices=['backbone', 'neck', 'model'],
        default='model',
        help='what to time: the backbone, the backbone with the neck, or the model from a uint8 '
        'image to results in the original size (default: %(default)s)',
    )
    for option, form, description in (
        ('--fuse', 'fused', 'the fused net, batch norms folded (default)'),
        ('--no-fuse', 'train', 'the training form'),
        ('--deploy', 'deploy', 'a net built in deploy form'),
        ('--accelerate', 'accelerated', 'the fused net, accelerated, at the same --dtype'),
    ):
        parser.add_argument(
            option, dest='forms', action='append_const', const=form, help=f'measure {description}'
        )
    add_arguments(parser, *MEASURING, '--cfg-options', *EXPORTED, '--warn-only')
    parser.add_argument('--json', metavar='FILE.json', help='write all figures to FILE.json')
    parser.add_argument('--plot', metavar='FILE.png', help='draw the speeds')
    add_arguments(parser, '--debug')
    args = parser.parse_args()
    for option, suffix in (('json', '.json'), ('plot', '.png')):
        file = getattr(args, option)
        if file and not file.endswith(suffix):
            parser.error(f'--{option} is {file!r}, expected a name that ends in {suffix}')
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from rich.console import Console

from mmvanilla import UserError
from mmvanilla.benchmark import FORMS, ModelSpec, Row, explain, measure, writing
from mmvanilla.benchmark.model import check_backbone
from mmvanilla.benchmark.settings import read_settings
from mmvanilla.benchmark.tables import (
    footer,
    make_console,
    plot_speed,
    print_lines,
    print_table,
    speed_cells,
    to_json,
)
from mmvanilla.deploy.predict import is_exported


def read_models(args: argparse.Namespace) -> list[ModelSpec | Row]:
    """Read the models, with a row instead where a package is missing.

    A config before exported files is measured itself only with a form or a checkpoint.
    """
    models: list[ModelSpec | Row] = []
    cfg = None
    for i, model in enumerate(args.models):
        file, _, suffix = model.partition('@')
        name = os.path.basename(file)
        if is_exported(file):
            if cfg is None:
                raise UserError(f'{file!r} is an exported file; give its config before it')
            precision = suffix or args.precision
            options = dict(precision=precision, trust=args.trust, warn_only=args.warn_only)
            models.append(ModelSpec(name, cfg, 'exported', file, **options))
            continue
        cfg, name = None, os.path.splitext(name)[0]
        exports_follow = is_exported(''.join(args.models[i + 1 : i + 2]).partition('@')[0])
        forms = args.forms or ([] if exports_follow and not suffix else ['fused'])
        try:
            cfg = load_config(argparse.Namespace(config=file, cfg_options=args.cfg_options))
        except ValueError as error:
            if not isinstance(error.__cause__, ImportError):
                raise
            reason = explain(error.__cause__)
            models += [Row(name, FORMS[form], reason=reason) for form in forms or ['exported']]
            continue
        check_backbone(cfg)
        torch.backends.cudnn.benchmark = cfg.get('env_cfg', {}).get('cudnn_benchmark', False)
        options = dict(file=suffix or None, warn_only=args.warn_only)
        models += [ModelSpec(name, cfg, form, **options) for form in dict.fromkeys(forms)]
    return models


def main(args: argparse.Namespace) -> None:
    """Measure."""
    MMLogger.get_current_instance().setLevel('WARNING')
    set_device(args)
    with (
        one_sentence_errors(args.debug, UserError, FileNotFoundError, ValueError),
        ExitStack() as files,
    ):
        others = dict(shape=tuple(args.shape)) if args.shape else {}
        settings = read_settings(args, part=args.part, images=args.images, **others)
        models = read_models(args)
        # Opened first, because a file that cannot be written should fail before the measurement.
        json_file = args.json and files.enter_context(writing(args.json))
        plot_file = args.plot and files.enter_context(writing(args.plot))
        result = measure(models, settings, Console(stderr=True))
        console = make_console()
        print_table(*speed_cells(result), console)
        print_lines(footer(result), result, console)
        if json_file:
            Path(json_file).write_text(to_json(result, command=sys.argv))
        if plot_file:
            plot_speed(result, plot_file)
    sys.exit(0 if any(row.times for row in result.rows) else 1)


if __name__ == '__main__':
    main(args)
