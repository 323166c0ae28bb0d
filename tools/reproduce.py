"""Reproduce the paper's tables here: tools/reproduce.py {table1,table2,table3,table4,...}.

The tables of speed build every net with random weights, count and time them, in turn in one run.
Tables 1 and 2 train their nets, and transfer small detectors. Published figures stand next to the
results, which go to DIR as Markdown, JSON and PNG.
"""

import argparse

from mmvanilla.cli import MEASURING, add_arguments, one_sentence_errors, set_device

TRAINED = ('table1', 'table2', 'transfer')
TIMED = ('table3', 'table4', 'figure2', 'ade20k')
PROJECT = 'projects.paper_tables'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    lines = __doc__.split('\n\n')
    parser = argparse.ArgumentParser(description=lines[0], epilog=lines[1])
    parser.add_argument('what', choices=[*TRAINED, *TIMED], help='what to reproduce')
    parser.add_argument(
        '--out', metavar='DIR', default='work_dirs/reproduce', help='folder (default: %(default)s)'
    )
    parser.add_argument(
        '--only', nargs='+', metavar='ROW', help='tables of speed: names of rows to measure'
    )
    parser.add_argument(
        '--published', action='store_true', help='figure2: draw the published latencies only'
    )
    parser.add_argument(
        '--small',
        action='store_true',
        help='table1, table2: narrow nets on small generated images, without ImageNet',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        default=[0, 1, 2],
        metavar='SEED',
        help='table1, table2, transfer: seeds of the trainings (default: 0 1 2)',
    )
    add_arguments(parser, *MEASURING, '--debug')
    args = parser.parse_args()
    if args.small and args.what not in TRAINED:
        parser.error('--small is for table1, table2 and transfer, which is always small')
    if args.what == 'transfer':
        args.small = True
    if args.only and args.what in TRAINED:
        parser.error('--only is for the tables of speed')
    if args.published and args.what != 'figure2':
        parser.error('--published is for figure2')
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import importlib
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from mmengine.logging import MMLogger

from mmvanilla import UserError
from mmvanilla.benchmark import writing


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    MMLogger.get_current_instance().setLevel('WARNING')
    set_device(args)
    out, measured = Path(args.out), True
    with (
        one_sentence_errors(args.debug, UserError, FileNotFoundError, ValueError),
        ExitStack() as files,
    ):
        # Opened first, because a file that cannot be written should fail before the measurement.
        def target(name: str) -> Path:
            return Path(files.enter_context(writing(str(out / name))))

        if args.what in TRAINED:
            accuracy = import_module('accuracy')
            try:
                accuracy.reproduce(args.what, args.small, args.seeds, out, target)
            except KeyboardInterrupt:
                print('interrupted; nothing is written', file=sys.stderr)
                sys.exit(130)
        elif args.published:
            import_module('speed').draw_figure2(target('figure2_published.png'))
        else:
            measured = import_module('speed').reproduce(args.what, args, target)
    print(f'written to {args.out}')
    if not measured:
        sys.exit(1)


def import_module(name: str) -> ModuleType:
    """Import a module of the project from the folder of this checkout or package.

    Raises:
        UserError: If this file was copied elsewhere without the project.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / PROJECT.replace('.', '/')).is_dir():
        raise UserError(
            f'{str(root)!r} has no folder projects/paper_tables; run `mmvanilla reproduce`, or '
            'tools/reproduce.py in a checkout'
        )
    sys.path.insert(0, str(root))  # inherited by processes that measure or train
    return importlib.import_module(f'{PROJECT}.{name}')


if __name__ == '__main__':
    main(args)
