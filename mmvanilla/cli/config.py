"""Reading a config file and fitting it to the command line, for mmdet's and mmseg's alike."""

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
MAX_REASON = 200  # characters; mmengine quotes whole lists


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
            reason = sentence(error).splitlines()[0] if str(error) else type(error).__name__
            parser.error(
                f'--cfg-options got {" ".join(pairs)}, of which a value cannot be read ({reason}); '
                'values are numbers, texts, [lists] and (tuples), so set what is in a dict by '
                'itself, such as model.backbone.arch.dims=[64,128]'
            )


def add_config(parser: ArgumentParser) -> None:
    """Add the argument that names the config."""
    parser.add_argument(
        'config', help="config file; it is Python and is run, so read a stranger's before"
    )


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
    text = 'settings of the config to replace, e.g. model.backbone.arch=9'
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValueAction, metavar='KEY=VALUE', help=text
    )


def add_warn_only(parser: ArgumentParser) -> None:
    """Add the argument that turns refusals into warnings."""
    text = 'warn where the run would be refused, since it would probably compute something wrong'
    parser.add_argument('--warn-only', action='store_true', help=text)


def add_exported(parser: ArgumentParser) -> None:
    """Add the arguments that say how an exported file is opened."""
    parser.add_argument(
        '--precision',
        choices=['fp32', 'bf16', 'auto'],
        default='fp32',
        help='in what OpenVINO computes an .xml file, but for what is in 8 bits; auto is what is '
        'fastest on this processor (default: %(default)s)',
    )
    text = 'open a .pt2 file, a program that is run: your own, or of somebody you trust'
    parser.add_argument('--trust', action='store_true', help=text)


def load_config(args: Namespace) -> Config:
    """Read the config file that the command line names and apply those arguments that it has.

    Raises:
        FileNotFoundError: If there is no such config file.
        UserError: If it is not one, has no place for a setting that is to be replaced, or needs a
            library that is not installed.
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
        if isinstance(error, ImportError):
            error = root_import_error(error)
        raise UserError(
            f'{args.config!r} cannot be read as a config file ({type(error).__name__}: '
            f'{sentence(error)}); correct it, or the packages that it imports'
        ) from error
    try:
        cfg.merge_from_dict(args.cfg_options or {})
    # What mmengine raises where a key leads into a number, beyond a list or past its end.
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        text = sentence(error)
        text = text if len(text) <= MAX_REASON else f'{text[:MAX_REASON]}...'
        keys = ', '.join(args.cfg_options)
        raise UserError(
            f'--cfg-options {keys} does not fit the config ({text}); check the keys'
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
        root: The folder that takes the place of each ``data_root``. Evaluators' paths below an old
            one, and absolute paths of data sets below it, are moved along, however they are spelt.

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
    """Return the path of a file below a folder, None where it is elsewhere or no path."""
    if path.startswith(os.path.join(folder, '')):
        return path.removeprefix(os.path.join(folder, ''))
    for spell in (os.path.abspath, os.path.realpath):
        below = os.path.relpath(spell(path), spell(folder))
        # Any text, such as the name of a metric, would be a path below the working directory.
        texts = not os.path.relpath(os.getcwd(), spell(folder)).startswith(os.pardir)
        if not below.startswith(os.pardir) and (os.path.isfile(path) or not texts):
            return below
    return None


def _walk(node: object) -> Iterator[ConfigDict]:
    """Walk over all dicts of a nested config."""
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _walk(child)
    elif isinstance(node, dict):
        yield node
        yield from _walk(list(node.values()))
