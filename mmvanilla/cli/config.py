"""Read a config file and apply the command line to it."""

from __future__ import annotations

import difflib
import logging
import os
from argparse import Namespace
from typing import TYPE_CHECKING

from ..errors import UserError, root_import_error, sentence
from ..installed import check_library
from ..package_configs import find_config
from ..type_name import scope, walk

if TYPE_CHECKING:
    from mmengine.config import Config

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
EVALUATORS = ('val_evaluator', 'test_evaluator')


def load_config(args: Namespace) -> Config:
    """Read the config file of a command line and apply the arguments to it.

    Raises:
        FileNotFoundError: The config file does not exist.
        UserError: The file is not a config, an option does not fit it, or a library is missing.
    """
    import torch
    from mmengine.config import Config
    from mmengine.logging import print_log

    from ..distill.config import use_hook

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
    for key in options:
        section = key.partition('.')[0]
        near = difflib.get_close_matches(section, cfg, n=1, cutoff=0.8)
        if section not in cfg and near:
            text = f'--cfg-options {key} adds {section!r} to the config, which has {near[0]!r}'
            print_log(f'{text}; check the spelling', logger='current', level=logging.WARNING)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f'--cfg-options {", ".join(options)} does not fit the config '
            f'({sentence(error)[:200]}); check the keys'
        ) from error
    use_hook(cfg)
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
