"""Measure the speed of models side by side: tools/fps.py CONFIG [CONFIG ...].

The models take turns within one run, each in a process of its own, so that a machine that drifts
does not decide. Each form that is asked for is a row: `--no-fuse --fuse` compares the training form
with the fused net, `--fuse --deploy` the fused net with one that was built in deploy form, `--fuse
--accelerate` with what accelerate() makes of it. `CONFIG@CHECKPOINT` has trained weights, and an
exported file is measured as it is, with the config before it: `CONFIG model.xml model.xml@bf16`.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

from mmvanilla import UserError
from mmvanilla.benchmark import FORMS, Candidate, Measurement, Row, explain, measure, writing
from mmvanilla.benchmark.settings import add_arguments, read_settings
from mmvanilla.benchmark.tables import (
    footer,
    make_console,
    plot_speed,
    print_table,
    print_warnings,
    speed_cells,
    to_json,
)
from mmvanilla.cli import (
    add_cfg_options,
    add_debug,
    add_exported,
    add_warn_only,
    load_config,
    one_sentence_errors,
)
from mmvanilla.deploy.predict import is_exported


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
        help='config file, which is Python and is run; CONFIG@CHECKPOINT; or, after its config, an '
        'exported file, perhaps with @bf16 or another --precision behind it',
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
        help='what to time: the backbone, it with the neck, or all from a uint8 image to results '
        "in the original's size (default: %(default)s)",
    )
    for option, form, text in (
        ('--fuse', 'fused', 'the fused net, batch norms folded (default)'),
        ('--no-fuse', 'train', 'the training form'),
        ('--deploy', 'deploy', 'a net built in deploy form'),
        ('--accelerate', 'accelerated', 'the fused net, accelerated, at the same --dtype'),
    ):
        parser.add_argument(
            option, dest='forms', action='append_const', const=form, help=f'measure {text}'
        )
    add_arguments(parser)
    add_cfg_options(parser)
    add_exported(parser)
    add_warn_only(parser)
    parser.add_argument('--json', metavar='FILE', help='write all figures to FILE')
    parser.add_argument('--plot', metavar='FILE.png', help='draw the speeds')
    add_debug(parser)
    args = parser.parse_args()
    for option, suffix in (('json', '.json'), ('plot', '.png')):
        file = getattr(args, option)
        if file and not file.endswith(suffix):
            parser.error(f'--{option} is {file!r}, expected a name that ends in {suffix}')
    return args


def read_candidates(args: argparse.Namespace) -> list[Candidate | Row]:
    """Read the models; one whose packages are missing becomes a row that says so.

    A config that exported files follow is theirs, and is not measured by itself unless a form or a
    checkpoint is asked for.
    """
    candidates: list[Candidate | Row] = []
    cfg = None
    for i, model in enumerate(args.models):
        file, _, behind = model.partition('@')
        if is_exported(file):
            if cfg is None:
                raise UserError(f'{file!r} is exported; name the config that it is of before it')
            name, precision = os.path.basename(file), behind or args.precision
            options = dict(
                file=file, precision=precision, trust=args.trust, warn_only=args.warn_only
            )
            candidates.append(Candidate(name, cfg, 'exported', **options))
            continue
        cfg, name = None, os.path.splitext(os.path.basename(file))[0]
        owns = i + 1 < len(args.models) and is_exported(args.models[i + 1].partition('@')[0])
        forms = args.forms or ([] if owns and not behind else ['fused'])
        try:
            cfg = load_config(argparse.Namespace(config=file, cfg_options=args.cfg_options))
        except ValueError as error:
            if not isinstance(error.__cause__, ImportError):
                raise
            reason = explain(error.__cause__)
            candidates += [Row(name, FORMS[form], reason=reason) for form in forms or ['exported']]
            continue
        check_backbone(cfg, file)
        torch.backends.cudnn.benchmark = cfg.get('env_cfg', {}).get('cudnn_benchmark', False)
        weights = dict(file=behind or None, warn_only=args.warn_only)
        candidates += [Candidate(name, cfg, form, **weights) for form in dict.fromkeys(forms)]
    return candidates


def check_backbone(cfg: Config, file: str) -> None:
    """Check that a config describes a model with a backbone.

    Raises:
        UserError: If it does not.
    """
    if 'backbone' not in (cfg.get('model') or {}):
        raise UserError(
            f'{file!r} has no model.backbone, expected the config of a detector, segmentor or '
            'classifier'
        )


def show(result: Measurement) -> None:
    """Print the table with what a reader must know."""
    console = make_console()
    print_table(*speed_cells(result), console)
    for line in footer(result):
        console.print(line, style='dim')
    print_warnings(result)


def main() -> None:
    """Measure."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')
    with (
        one_sentence_errors(args.debug, UserError, FileNotFoundError, ValueError),
        ExitStack() as files,
    ):
        others = dict(shape=tuple(args.shape)) if args.shape else {}
        settings = read_settings(args, part=args.part, images=args.images, **others)
        candidates = read_candidates(args)
        # Entered before measuring, so that what cannot be written is found at once.
        json_file = args.json and files.enter_context(writing(args.json))
        plot_file = args.plot and files.enter_context(writing(args.plot))
        result = measure(candidates, settings, Console(stderr=True))
        show(result)
        if json_file:
            Path(json_file).write_text(to_json(result, command=sys.argv))
        if plot_file:
            plot_speed(result, plot_file)
    sys.exit(0 if any(row.times for row in result.rows) else 1)


if __name__ == '__main__':
    main()
