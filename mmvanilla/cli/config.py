"""Read a config file and apply the command line to it."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction

from ..errors import UserError, root_import_error, sentence
from ..installed import check_library
from ..package_configs import find_config
from ..type_name import scope

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
EVALUATORS = ('val_evaluator', 'test_evaluator')


class KeyValueAction(DictAction):
    """Read KEY=VALUE pairs; anything else is a usage error."""

    def __call__(self, parser: ArgumentParser, *args: object) -> None:
        """Read the pairs."""
        pairs: Any = args[1]
        for pair in pairs:
            key, equals, _ = pair.partition('=')
            if not equals or '' in key.split('.'):
                parser.error(f'--cfg-options got {pair!r}, expected KEY=VALUE')
        try:
            super().__call__(parser, *args)
        except (ValueError, AssertionError, RecursionError) as error:
            parser.error(
                f'--cfg-options {" ".join(pairs)} cannot be read ({sentence(error)[:200]}); values '
                'are numbers, strings, [lists] and (tuples); set the entries of a dict one by one, '
                'such as model.backbone.arch.dims=[64,128]'
            )


def add_config(parser: ArgumentParser) -> None:
    """Add the argument that names the config."""
    text = "config file; it is Python and is run, so read a stranger's before"
    parser.add_argument('config', help=text)


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that every run takes to fit its config."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    add_data_root(parser)
    add_cfg_options(parser)
    add_warn_only(parser)
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    text = 'how the processes of a distributed run are started'
    parser.add_argument('--launcher', choices=launchers, default='none', help=text)
    text = 'show a bar, or lines only (default: a bar if stdout is a terminal)'
    parser.add_argument('--progress', choices=['auto', 'rich', 'plain'], default='auto', help=text)


def add_data_root(parser: ArgumentParser) -> None:
    """Add the argument that moves the data."""
    text = 'read every data set and evaluation file from DIR'
    parser.add_argument('--data-root', metavar='DIR', help=text)


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add the argument that replaces settings."""
    options: Any = dict(nargs='+', action=KeyValueAction, metavar='KEY=VALUE')
    text = 'settings of the config to replace, e.g. model.backbone.arch=9'
    parser.add_argument('--cfg-options', help=text, **options)


def add_warn_only(parser: ArgumentParser) -> None:
    """Add the argument that turns refusals into warnings."""
    text = 'warn where the run would be refused, since it would probably compute something wrong'
    parser.add_argument('--warn-only', action='store_true', help=text)


def add_exported(parser: ArgumentParser) -> None:
    """Add the arguments that say how an exported file is opened."""
    text = 'dtype for .xml files except their 8-bit layers; auto is the fastest on this processor '
    text += '(default: %(default)s)'
    choices = ['fp32', 'bf16', 'auto']
    parser.add_argument('--precision', choices=choices, default='fp32', help=text)
    text = 'open a .pt2 file, which is a program that is run; trust only your own'
    parser.add_argument('--trust', action='store_true', help=text)


def load_config(args: Namespace) -> Config:
    """Read the config file that the command line names, and apply the arguments.

    Raises:
        FileNotFoundError: If there is no such config file.
        UserError: If the file is not a config, an option does not fit it, or a library is not
            installed.
    """
    launcher = getattr(args, 'launcher', 'none')
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch needs torchrun; use tools/dist_train.sh')
    file = find_config(args.config)
    try:
        cfg = Config.fromfile(file)
    except UserError:
        raise
    except Exception as error:  # it is a program, which may raise anything
        cause = root_import_error(error) if isinstance(error, ImportError) else error
        raise UserError(
            f'{args.config!r} cannot be read as a config file ({type(cause).__name__}: '
            f'{sentence(cause)}); correct it, or the packages that it imports'
        ) from cause
    options = args.cfg_options or {}
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # keys into numbers or lists
        raise UserError(
            f'--cfg-options {", ".join(options)} does not fit the config '
            f'({sentence(error)[:200]}); check the keys'
        ) from error
    cfg.launcher = launcher
    cfg.default_scope = scope(cfg)  # one in pure Python has none, but its metrics may name others
    check_library(cfg.default_scope)
    if not torch.cuda.is_available():
        cfg.sync_bn = None  # it needs GPUs
    name = os.path.splitext(os.path.basename(args.config))[0]
    work_dir = getattr(args, 'work_dir', None) or cfg.get('work_dir')
    cfg.work_dir = work_dir or os.path.join('work_dirs', name)
    if getattr(args, 'data_root', None):
        set_data_root(cfg, args.data_root)
    return cfg


def set_data_root(cfg: Config, root: str) -> None:
    """Move every data set and evaluator of a config to another folder, in place.

    Args:
        cfg: The config; every dict with a ``data_root`` is a data set.
        root: The new ``data_root``. Absolute paths of data sets and paths of evaluators below an
            old one are moved too.

    Raises:
        UserError: If the config has no data set to move.
    """
    loaders, root = [cfg.get(name) for name in DATALOADERS], os.path.join(root, '')
    datasets = [node for node in _walk(loaders) if 'data_root' in node]
    if not datasets:
        raise UserError('--data-root moves nothing: no data set of the config has a data_root')
    old_roots = sorted({node['data_root'] for node in datasets} - {'', None}, key=len, reverse=True)
    evaluators = [cfg.get(name) for name in EVALUATORS]
    for nodes, new in ((loaders, os.path.abspath(root)), (evaluators, root)):
        for node in {id(node): node for node in _walk(nodes)}.values():
            for key, value in node.items():
                # A relative path of a data set is below its data_root.
                if isinstance(value, str) and (nodes is evaluators or os.path.isabs(value)):
                    below = next(filter(None, (_below(value, old) for old in old_roots)), None)
                    node[key] = os.path.join(new, below) if below else value
    for node in datasets:
        node['data_root'] = root


def _below(path: str, folder: str) -> str | None:
    """Return the path of a file below a folder, or None."""
    # Any string, such as the name of a metric, would be a path below the working directory.
    is_path = os.path.isabs(path) or os.path.isfile(path)
    for spell in (os.path.normpath, os.path.realpath) if is_path else (os.path.normpath,):
        start = os.path.join(spell(folder), '')
        if spell(path).startswith(start):
            return spell(path).removeprefix(start)
    return None


def _walk(node: Any) -> Iterator[ConfigDict]:
    """Walk over all dicts of a nested config."""
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node
    for child in children if isinstance(node, dict | list | tuple) else ():
        yield from _walk(child)
