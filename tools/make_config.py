"""Write a config for a data set: tools/make_config.py DATA --recipe NAME --out CONFIG.

Looks at the data, in the layout of COCO, ADE20K or ImageNet as tools/import_data.py writes it, and
writes a child config of the recipe: classes, paths, image sizes, anchors, batch size, learning
rate, schedule and hooks, each with its reason. Example::

    python tools/make_config.py data/mine --recipe mask_rcnn_vanillanet13 --out configs/mine.py
"""

import argparse
from pathlib import Path

from mmvanilla.cli import add_arguments, one_sentence_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Write a config for a data set.')
    parser.add_argument('data', type=Path, help='folder of the data')
    text = 'config to start from, of the package, a file, or such as mmdet::retinanet/...; its '
    text += 'code is run'
    parser.add_argument('--recipe', required=True, help=text)
    parser.add_argument('--out', metavar='FILE', help='config to write; .py')
    parser.add_argument('--dry-run', action='store_true', help='print the config, write nothing')
    parser.add_argument(
        '--batch-size', type=int, metavar='N', help="images a step (default: the recipe's)"
    )
    parser.add_argument(
        '--epochs', type=int, metavar='N', help='length (default: by the number of images)'
    )
    parser.add_argument(
        '--weights',
        metavar='FILE',
        help="checkpoint to start from, FILE or https://... (default: the recipe's backbone)",
    )
    add_arguments(parser, '--debug')
    args = parser.parse_args()
    if bool(args.out) == args.dry_run:
        parser.error('give either --out FILE or --dry-run')
    if args.out and not args.out.endswith('.py'):
        parser.error(f'--out is {args.out!r}, expected a name in .py')
    for name in ('batch_size', 'epochs'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} is {getattr(args, name)}, expected 1 or more')
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import os
import sys

from mmengine.config import Config
from mmengine.hub import get_config

from mmvanilla import UserError
from mmvanilla.labels.facts import find_facts
from mmvanilla.labels.suggest import source, suggest
from mmvanilla.package_configs import find_config
from mmvanilla.type_name import scope
from mmvanilla.whole_files import replace_file


def read_recipe(args: argparse.Namespace) -> tuple[Config, str]:
    """Return the recipe and its name for ``_base_``: that of a package, else a relative path."""
    if '::' in args.recipe and not args.recipe.startswith('mmvanilla::'):
        cfg, base = get_config(args.recipe), args.recipe
    else:
        file = find_config(args.recipe)
        cfg, base = Config.fromfile(file), f'mmvanilla::{Path(file).name}'
        if os.path.isfile(args.recipe):
            base = os.path.relpath(file, os.path.dirname(os.path.abspath(args.out or '.')))
    cfg.default_scope = scope(cfg)
    return cfg, base


def main(args: argparse.Namespace) -> None:
    """Write the config."""
    with one_sentence_errors(args.debug, UserError, OSError):
        if args.out and os.path.exists(args.out):
            raise UserError(f'--out {args.out!r} exists, perhaps with your changes; name another')
        facts = find_facts(args.data)
        cfg, base = read_recipe(args)
        settings, warnings = suggest(
            cfg, facts, args.data, args.batch_size, args.epochs, args.weights
        )
        name = Path(base.rpartition('::')[2]).stem
        text = source(settings, base, f'{name} on {args.data}, {len(facts.classes)} classes.')
        if args.out:
            replace_file(args.out, text.encode())
    for warning in warnings:
        print(f'make_config.py: warning: {warning}', file=sys.stderr)
    if args.dry_run:
        print(text, end='')
    else:
        print(f'{args.out} written; train it with: mmvanilla train {args.out}')


if __name__ == '__main__':
    main(args)
