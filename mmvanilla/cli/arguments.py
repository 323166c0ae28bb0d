"""Arguments that several command lines share."""

from argparse import Action, ArgumentParser, Namespace
from typing import Any

from ..errors import sentence
from ..package_configs import find_config
from .one_sentence import one_sentence_errors


class KeyValueAction(Action):
    """Read KEY=VALUE pairs as mmengine's ``DictAction`` does; others are usage errors."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, pairs: Any, option: str | None = None
    ) -> None:
        """Add the pairs to a dict."""
        for pair in pairs:
            key, equals, _ = pair.partition('=')
            if not equals or '' in key.split('.'):
                parser.error(f'--cfg-options got {pair!r}, expected KEY=VALUE')
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, pairs)
        except (ValueError, AssertionError, RecursionError) as error:
            parser.error(
                f'--cfg-options {" ".join(pairs)} cannot be read ({sentence(error)[:200]}); values '
                'are numbers, strings, [lists] and (tuples); set the entries of a dict one by one, '
                'such as model.backbone.arch.dims=[64,128]'
            )


def _choice(default: str, *others: str, text: str) -> dict[str, Any]:
    return dict(choices=[default, *others], default=default, help=f'{text} (default: {default})')


def _number(default: int | None, text: str) -> dict[str, Any]:
    shown = '' if default is None else f' (default: {default})'
    return dict(type=int, default=default, metavar='N', help=text + shown)


def _flag(text: str) -> dict[str, Any]:
    return dict(action='store_true', help=text)


ARGUMENTS: dict[str, dict[str, Any]] = {
    'config': dict(help='config file; its Python code is run, so read configs of others first'),
    '--work-dir': dict(help='folder of logs and checkpoints'),
    '--data-root': dict(metavar='DIR', help='read every data set and evaluation file from DIR'),
    '--cfg-options': dict(
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. model.backbone.arch=9',
    ),
    '--warn-only': _flag('turn refusals of a config, checkpoint or data set into warnings'),
    '--launcher': _choice(
        *('none', 'pytorch', 'slurm', 'mpi'), text='starts the processes of a distributed run'
    ),
    '--progress': _choice(
        *('auto', 'rich', 'plain'),
        text='show a bar (rich) or lines only (plain); auto shows a bar if stdout is a terminal',
    ),
    '--batch-size': _number(1, 'images in a call'),
    '--device': dict(help='device to run on (default: cuda if there is one, else cpu)'),
    '--dtype': _choice('fp32', 'tf32', 'fp16', 'bf16', text='dtype to compute in'),
    '--channels-last': _flag('store tensors channels last'),
    '--compile': _flag('compile backbone and neck'),
    '--threads': _number(None, 'number of CPU threads'),
    '--warmup': _number(3, 'rounds before the measured ones'),
    '--repeat': _number(30, 'rounds to measure'),
    '--precision': _choice(
        *('fp32', 'bf16', 'auto'),
        text='dtype of .xml files, except for their 8-bit layers; auto is the fastest on this '
        'processor',
    ),
    '--trust': _flag('open a .pt2 file, which is a program; trust only your own'),
    '--draw': _choice(
        *('supervision', 'library'),
        text='draw with supervision, or with the visualizer of the config or its library',
    ),
    '--debug': _flag('show the traceback of an error instead of one sentence'),
}
RUN = ('--work-dir', '--data-root', '--cfg-options', '--warn-only', '--launcher', '--progress')
MEASURING = (
    *('--batch-size', '--device', '--dtype', '--channels-last', '--compile', '--threads'),
    *('--warmup', '--repeat'),
)
EXPORTED = ('--precision', '--trust')


def add_arguments(parser: ArgumentParser, *names: str) -> None:
    """Add arguments by name.

    Args:
        parser: The parser of a command line.
        names: Keys of ``ARGUMENTS``; ``RUN``, ``MEASURING`` and ``EXPORTED`` are groups of them.
    """
    for name in names:
        parser.add_argument(name, **ARGUMENTS[name])


def set_device(args: Namespace) -> None:
    """Set ``args.device`` to its default if the command line has none."""
    import torch

    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')


def check_config(args: Namespace) -> None:
    """Exit with one sentence if the config file does not exist."""
    with one_sentence_errors(args.debug, FileNotFoundError):
        find_config(args.config)
