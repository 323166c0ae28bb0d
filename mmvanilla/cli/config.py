"""Read a config file and apply the command line to it."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from ..errors import UserError, root_import_error, sentence
from ..installed import check_library
from ..package_configs import find_config
from ..type_name import scope, walk
from .one_sentence import one_sentence_errors

if TYPE_CHECKING:
    from mmengine.config import Config

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
EVALUATORS = ('val_evaluator', 'test_evaluator')


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


def add_config(parser: ArgumentParser) -> None:
    """Add the argument that names the config."""
    text = 'config file; its Python code is run, so read configs of others first'
    parser.add_argument('config', help=text)


def check_config(args: Namespace) -> None:
    """Exit with one sentence if the config file does not exist."""
    with one_sentence_errors(args.debug, FileNotFoundError):
        find_config(args.config)


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of every training and test."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    add_data_root(parser)
    add_cfg_options(parser)
    add_warn_only(parser)
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    text = 'starts the processes of a distributed run'
    parser.add_argument('--launcher', choices=launchers, default='none', help=text)
    text = 'show a bar, or lines only (default: a bar if stdout is a terminal)'
    parser.add_argument('--progress', choices=['auto', 'rich', 'plain'], default='auto', help=text)


def add_data_root(parser: ArgumentParser) -> None:
    """Add ``--data-root``."""
    text = 'read every data set and evaluation file from DIR'
    parser.add_argument('--data-root', metavar='DIR', help=text)


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    options: Any = dict(nargs='+', action=KeyValueAction, metavar='KEY=VALUE')
    text = 'override settings of the config, e.g. model.backbone.arch=9'
    parser.add_argument('--cfg-options', help=text, **options)


def add_warn_only(parser: ArgumentParser) -> None:
    """Add ``--warn-only``."""
    text = 'turn refusals of a config, checkpoint or data set into warnings'
    parser.add_argument('--warn-only', action='store_true', help=text)


def add_device(parser: ArgumentParser) -> None:
    """Add ``--device``, which ``set_device`` completes."""
    text = 'device to run on (default: cuda if there is one, else cpu)'
    parser.add_argument('--device', help=text)


def set_device(args: Namespace) -> None:
    """Set ``args.device`` to its default if the command line has none."""
    import torch

    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')


def add_measuring(parser: ArgumentParser) -> None:
    """Add the settings of a measurement."""
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images in a call')
    add_device(parser)
    dtypes = ['fp32', 'tf32', 'fp16', 'bf16']
    text = 'dtype to compute in (default: %(default)s)'
    parser.add_argument('--dtype', choices=dtypes, default='fp32', help=text)
    parser.add_argument('--channels-last', action='store_true', help='store tensors channels last')
    parser.add_argument('--compile', action='store_true', help='compile backbone and neck')
    parser.add_argument('--threads', type=int, metavar='N', help='number of CPU threads')
    text = 'rounds before the measured ones (default: %(default)s)'
    parser.add_argument('--warmup', type=int, default=3, metavar='N', help=text)
    text = 'rounds to measure (default: %(default)s)'
    parser.add_argument('--repeat', type=int, default=30, metavar='N', help=text)


def add_exported(parser: ArgumentParser) -> None:
    """Add the arguments for opening exported files."""
    text = 'dtype of .xml files, except for their 8-bit layers; auto is the fastest on this '
    text += 'processor (default: %(default)s)'
    choices = ['fp32', 'bf16', 'auto']
    parser.add_argument('--precision', choices=choices, default='fp32', help=text)
    text = 'open a .pt2 file, which is a program; trust only your own'
    parser.add_argument('--trust', action='store_true', help=text)


def load_config(args: Namespace) -> Config:
    """Read the config file of a command line and apply the arguments to it.

    Raises:
        FileNotFoundError: The config file does not exist.
        UserError: The file is not a config, an option does not fit it, or a library is missing.
    """
    import torch
    from mmengine.config import Config

    launcher = getattr(args, 'launcher', 'none')
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch needs torchrun; use tools/dist_train.sh')
    file = find_config(args.config)
    try:
        cfg = Config.fromfile(file)
    except UserError:
        raise
    except Exception as error:  # a config is a program, which may raise anything
        cause = root_import_error(error) if isinstance(error, ImportError) else error
        raise UserError(
            f'{args.config!r} cannot be read as a config file ({type(cause).__name__}: '
            f'{sentence(cause)}); correct it, or the packages that it imports'
        ) from cause
    options = args.cfg_options or {}
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f'--cfg-options {", ".join(options)} does not fit the config '
            f'({sentence(error)[:200]}); check the keys'
        ) from error
    cfg.launcher = launcher
    cfg.default_scope = scope(cfg)  # pure Python configs have none, but their metrics need one
    check_library(cfg.default_scope)
    if not torch.cuda.is_available():
        cfg.sync_bn = None  # SyncBN needs GPUs
    name = os.path.splitext(os.path.basename(args.config))[0]
    work_dir = getattr(args, 'work_dir', None) or cfg.get('work_dir')
    cfg.work_dir = work_dir or os.path.join('work_dirs', name)
    if getattr(args, 'data_root', None):
        set_data_root(cfg, args.data_root)
    return cfg


def set_data_root(cfg: Config, root: str) -> None:
    """Move every data set and evaluator of a config to another folder.

    Args:
        cfg: The config, changed in place; every dict with a ``data_root`` is a data set.
        root: The new ``data_root``. Absolute paths of data sets, and all paths of evaluators, move
            to it if they are below an old ``data_root``.

    Raises:
        UserError: No data set of the config has a ``data_root``.
    """
    loaders = [cfg.get(name) for name in DATALOADERS]
    root = os.path.join(root, '')
    datasets = [node for node in walk(loaders) if 'data_root' in node]
    if not datasets:
        raise UserError(
            '--data-root was given, but no data set of the config has a data_root to replace'
        )
    old_roots = sorted({node['data_root'] for node in datasets} - {'', None}, key=len, reverse=True)
    evaluators = [cfg.get(name) for name in EVALUATORS]
    # Relative paths of a data set start at its data_root, so only absolute ones move.
    for nodes, new, move_relative in (
        (loaders, os.path.abspath(root), False),
        (evaluators, root, True),
    ):
        for node in {id(node): node for node in walk(nodes)}.values():  # shared dicts only once
            for key, value in node.items():
                if isinstance(value, str) and (move_relative or os.path.isabs(value)):
                    below = next(filter(None, (_below(value, old) for old in old_roots)), None)
                    node[key] = os.path.join(new, below) if below else value
    for node in datasets:
        node['data_root'] = root


def _below(path: str, folder: str) -> str | None:
    """Return the path relative to a folder if it is below the folder, else None."""
    # realpath would put other strings, such as the name of a metric, below the working directory.
    is_path = os.path.isabs(path) or os.path.isfile(path)
    for resolve in (os.path.normpath, os.path.realpath) if is_path else (os.path.normpath,):
        start = os.path.join(resolve(folder), '')
        if resolve(path).startswith(start):
            return resolve(path).removeprefix(start)
    return None
