"""Build a runner from a config and check its data before it starts."""

import copy
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader

from ..checks import (
    Finding,
    Items,
    account,
    compare,
    compare_evaluator,
    noted_json,
    record_of_dataset,
    report,
)
from ..errors import CheckpointError, InputError, UserError, sentence
from ..type_name import walk
from .distributed import check_strategy, init_processes, together
from .hooks.resume import resumed_seed
from .loaders import prepare_loader, prepare_loop
from .look import check_head_classes, unwrap
from .recipe_hooks import add_hooks, drop_hooks_set_to_none

ITEMS = 4  # samples of each data set that are sent through its pipeline


class PreparedRunner:
    """Mixin of the runners that ``build_runner`` makes."""

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader that seeds each sample and names files that fail."""
        return prepare_loader(Runner.build_dataloader(dataloader, seed, diff_rank_seed), seed)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: torch.nn.Module) -> torch.nn.Module:
        """Wrap the model; norms synchronise on GPUs only."""
        if not torch.cuda.is_available():
            model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)  # type: ignore[misc]

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume, with one sentence if mmengine or torch cannot use the file."""
        try:
            super().resume(filename, *args, **kwargs)  # type: ignore[misc]
            if not all(isinstance(n, int) and n >= 0 for n in (self.epoch, self.iter)):  # type: ignore
                raise ValueError(f'epoch {self.epoch!r}, iteration {self.iter!r}')  # type: ignore
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:  # mmengine and torch index and call values of the file
            raise CheckpointError(
                f'checkpoint {filename!r} does not fit this training ({type(error).__name__}: '
                f'{sentence(error)}); resume one of this config, or begin with its weights by '
                'load_from'
            ) from error


def build_runner(cfg: Config, task: str = 'train', warn_only: bool = False) -> Runner:
    """Build a runner that is ready to train or test.

    Every process builds its data sets once. The first process checks them, and all wait for the
    result.

    Args:
        cfg: The config; it is not changed.
        task: ``'train'`` or ``'test'``.
        warn_only: Log findings as warnings instead of raising them, unless the run would fail.

    Raises:
        UserError: If the run would fail or compute something wrong.
        SystemExit: If another process has a fault, and this one has none.
    """
    check_strategy(cfg)
    cfg = copy.deepcopy(cfg)
    added = add_hooks(cfg) if task == 'train' else []
    drop_hooks_set_to_none(cfg)
    if task == 'train':
        scale_base_batch_size(cfg)
        if (seed := resumed_seed(cfg)) is not None:
            cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    init_processes(cfg)
    base: Any = RUNNERS.get(cfg.runner_type) if 'runner_type' in cfg else Runner
    runner_type: Any = type(base.__name__, (PreparedRunner, base), {})

    def build() -> Runner:
        with noted_json():
            runner = runner_type.from_cfg(cfg)
            for split in ('train', 'val') if task == 'train' else ('test',):
                with build_errors(cfg, split):
                    getattr(runner, f'{split}_loop')
            if task == 'train':
                runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            for hook in runner.hooks:
                if warn_only and hasattr(hook, 'warn_only'):
                    hook.warn_only = True
            check_runner(runner, warn_only)
        return runner

    runner = together(build)
    if runner.distributed and not torch.cuda.is_available():
        runner.logger.info(
            'Batch norms average over the images of their own process, since only GPUs synchronise '
            'them; the running statistics are those of the first process'
        )
    if added:
        runner.logger.info(f'Added as in the recipes of mmvanilla: {", ".join(added)}')
    return runner


@contextmanager
def build_errors(cfg: Config, split: str) -> Iterator[None]:
    """Turn errors of a library that builds the data set of a split into UserErrors.

    A finding about the data is more helpful than the error of the library, so it replaces it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # data sets may raise anything
        loader = copy.deepcopy(cfg.get(f'{split}_dataloader') or {})
        datasets = [node for node in walk(loader) if node.keys() & {'ann_file', 'data_prefix'}]
        pairs = [(node.get('data_root') or '', node.get('ann_file') or '') for node in datasets]
        reason = f'{type(error).__name__}: {sentence(error)}'
        named = ''.join(
            f', {os.path.join(root, file)!r}' for root, file in pairs if file and file not in reason
        )
        keys = (f'{split}_{key}' for key in ('dataloader', 'cfg', 'evaluator'))
        advice = 'correct the config'
        if isinstance(error, OSError):
            advice = f'put the data there, set data_root (--data-root of the tools), or {advice}'
        elif isinstance(error, TypeError):  # an argument, not the files
            named = ''
        text = f'{" or ".join(filter(cfg.get, keys))} cannot be built ({reason}){named}; {advice}'
        with suppress(Exception):  # the library's error is reported
            for node in datasets:
                node['serialize_data'] = False  # mmengine cannot serialize an empty data set
            findings = account(DATASETS.build(loader['dataset']), split).findings()
            text = next((finding.text for finding in findings if finding.refuse), text)
        raise UserError(text) from error


def check_data(
    loaders: Mapping[str, DataLoader],
    cfg: Config,
    model: torch.nn.Module | None = None,
    warn_only: bool = False,
) -> None:
    """Check built data sets against files, heads and evaluators, in the first process.

    Args:
        loaders: The loaders by split.
        cfg: The config with the evaluators.
        model: The model, unless it is not built.
        warn_only: Log findings as warnings instead of raising them, unless the run would fail.

    Raises:
        InputError: If a sample fails in its pipeline, when collated or preprocessed.
        UserError: If a finding is refused.
    """
    if not is_main_process():
        return
    findings: list[Finding] = []
    datasets = {split: library_dataset(loader) for split, loader in loaders.items()}
    records = {split: record_of_dataset(data, images=False) for split, data in datasets.items()}
    for split, dataset in datasets.items():
        counted = account(dataset, split)
        print_log(counted.line(), logger='current')
        findings += counted.findings()
        if model is not None:
            classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
            findings += check_head_classes(model, counted.labels, len(classes))
        findings += compare_evaluator(dataset, cfg.get(f'{split}_evaluator') or [])
    if 'train' in records and 'val' in records:
        findings += compare(records['train'], records['val'], 'data')
    report(findings, warn_only)
    for split, loader in loaders.items():
        try_items(loader, split, model)


def try_items(loader: DataLoader, split: str, model: torch.nn.Module | None = None) -> None:
    """Send a few random samples through the pipeline, the collate function and the preprocessor.

    Raises:
        InputError: If one fails; the message names the file and the step.
    """
    dataset = library_dataset(loader)
    if not hasattr(dataset, '__getitem__') or not len(dataset):
        return
    items, states = Items(dataset), (random.getstate(), np.random.get_state())
    indices = np.random.default_rng(0).permutation(len(items))[:ITEMS]
    preprocess = getattr(model, 'data_preprocessor', None)
    with torch.random.fork_rng(devices=[]):
        for item in map(items.__getitem__, indices.tolist()):
            step = 'collate function'
            try:
                batch, step = loader.collate_fn([item]), 'data preprocessor'
                if preprocess is not None:
                    preprocess(batch, False)
            except Exception as error:  # collate functions may raise anything
                sample = item.get('data_samples') if isinstance(item, dict) else None
                name = repr(getattr(sample, 'img_path', 'of unknown name'))
                raise InputError(
                    f'a sample of {split} fails in the {step} ({type(error).__name__}: '
                    f'{sentence(error)}), of image {name}; compare {split}_dataloader, '
                    'its pipeline and model.data_preprocessor'
                ) from error
    random.setstate(states[0])
    np.random.set_state(states[1])


def built_loops(runner: Runner) -> dict[str, BaseLoop]:
    """Return the loops that a runner has built so far, by split."""
    # The public properties would build the loops that this run does without.
    loops = dict(train=runner._train_loop, val=runner._val_loop, test=runner._test_loop)
    return {split: loop for split, loop in loops.items() if isinstance(loop, BaseLoop)}


def library_dataset(loader: DataLoader) -> Any:
    """Return the data set of a loader as the library built it."""
    return loader.dataset.source if isinstance(loader.dataset, Items) else loader.dataset


def check_runner(runner: Runner, warn_only: bool = False) -> None:
    """Check the data sets that a runner has built."""
    loaders = {split: loop.dataloader for split, loop in built_loops(runner).items()}
    check_data(loaders, runner.cfg, unwrap(runner.model), warn_only)


def prepare(runner: Runner, warn_only: bool = False) -> None:
    """Prepare a runner that another program built, with its loops, as ``build_runner`` does."""
    if isinstance(runner, PreparedRunner):
        return
    for loop in built_loops(runner).values():
        prepare_loop(runner, loop)
    together(lambda: check_runner(runner, warn_only))


def scale_base_batch_size(cfg: Config) -> None:
    """Count the images of an optimizer step, not of a batch, in ``auto_scale_lr``, in place.

    A step accumulates the gradients of ``accumulative_counts`` batches.
    """
    count = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    if cfg.get('auto_scale_lr', {}).get('enable') and count > 1:
        cfg.auto_scale_lr.base_batch_size /= count
