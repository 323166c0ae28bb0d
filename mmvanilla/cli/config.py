"""Reading a config file and fitting it to the command line, for mmdet's and mmseg's alike."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

import torch
from mmengine.config import Config, ConfigDict, DictAction

from ..errors import UserError, root_import_error

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
EVALUATORS = ('val_evaluator', 'test_evaluator')


class KeyValueAction(DictAction):
    """Read KEY=VALUE pairs; anything else is a usage error."""

    def __call__(self, parser: ArgumentParser, *args: object) -> None:
        """Read the pairs."""
        try:
            super().__call__(parser, *args)
        except ValueError:
            parser.error(f'--cfg-options got {args[1]}, expected KEY=VALUE pairs')


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
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run are started',
    )


def add_data_root(parser: ArgumentParser) -> None:
    """Add the argument that moves the data."""
    parser.add_argument(
        '--data-root', metavar='DIR', help='read every data set and evaluation file from DIR'
    )


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add the argument that replaces settings."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help='settings of the config to replace, e.g. model.backbone.arch=9',
    )


def load_config(args: Namespace) -> Config:
    """Read the config file that the command line names and apply those arguments that it has.

    Raises:
        FileNotFoundError: If there is no such config file.
        ValueError: If it is not one.
    """
    launcher = getattr(args, 'launcher', 'none')
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch needs torchrun; use tools/dist_train.sh')
    if not os.path.isfile(args.config):
        raise FileNotFoundError(f'there is no config file {args.config!r}; check the path')
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:
        if isinstance(error, ImportError):
            error = root_import_error(error)
        raise ValueError(f'{args.config!r} cannot be read as a config file: {error}') from error
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = launcher
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
        cfg: The config; a data set is what has a ``data_root``.
        root: The folder that takes the place of each ``data_root``; evaluators' paths below an old
            one are moved along.

    Raises:
        UserError: If the config has no data set to move.
    """
    root = os.path.join(root, '')
    datasets = [d for key in DATALOADERS for d in walk_dicts(cfg.get(key)) if 'data_root' in d]
    if not datasets:
        raise UserError('--data-root moves nothing: no data set of the config has a data_root')
    old_roots = {os.path.join(dataset['data_root'] or '', '') for dataset in datasets} - {''}
    old_roots = sorted(old_roots, key=len, reverse=True)
    for dataset in datasets:
        dataset['data_root'] = root
    for evaluator in (d for key in EVALUATORS for d in walk_dicts(cfg.get(key))):
        for key, value in evaluator.items():
            old = next(
                (r for r in old_roots if isinstance(value, str) and value.startswith(r)), None
            )
            if old:
                evaluator[key] = root + value.removeprefix(old)


def check_data(cfg: Config, keys: tuple[str, ...] = DATALOADERS) -> None:
    """Check that the annotation files and image folders of a config's data sets are there.

    Raises:
        FileNotFoundError: If one is missing; the message says which and for which data loader.
    """
    for key in keys:
        for dataset in walk_dicts(cfg.get(key)):
            root = dataset.get('data_root') or ''
            prefixes = dataset.get('data_prefix') or {}
            if isinstance(prefixes, str):  # as mmpretrain may have it
                prefixes = dict(img_path=prefixes)
            for path in [dataset.get('ann_file'), *prefixes.values()]:
                path = os.path.join(root, path) if path else ''
                if path and '://' not in path and not os.path.exists(path):
                    raise FileNotFoundError(
                        f'{key} looks for {path!r}, which does not exist; put the data there '
                        'or name its folder with --data-root'
                    )


def check_norms(cfg: Config) -> None:
    """Check that a config does not ask for synchronised batch norms where there is no GPU.

    Raises:
        UserError: If it does.
    """
    if torch.cuda.is_available():
        return
    for node in walk_dicts(cfg.model):
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            raise UserError('the config asks for SyncBN, which needs GPUs; set type=BN in norm_cfg')


def walk_dicts(node: object) -> Iterator[ConfigDict]:
    """Walk over all dicts of a nested config."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from walk_dicts(child)


def tested_dataset(cfg: Config) -> ConfigDict:
    """Return the data set of a config's test data loader, without wrappers around it."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset
