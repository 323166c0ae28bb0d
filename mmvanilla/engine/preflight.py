"""Checks of a training before anything runs."""

from collections.abc import Iterable

import torch
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ..data_checks import check_annotations, check_paths, use_checked_loading
from ..errors import UserError
from ..type_name import type_name
from .hooks.check_resume import CheckResumeHook
from .model_checks import check_classes, check_model, check_norms


def preflight(cfg: Config, parts: Iterable[str] = ('train', 'val')) -> None:
    """Check what a config tells of a training, before anything is built.

    That is: files and folders that are missing, annotations at which training would stop or from
    which it would learn something wrong, and models that are sharded.

    Args:
        cfg: The config of mmdet, mmseg or mmpretrain.
        parts: The data loaders to look at, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: At the first mistake.
    """
    parts = tuple(parts)
    check_paths(cfg, parts)
    check_annotations(cfg, parts)
    check_strategy(cfg)


@HOOKS.register_module()
class PreflightHook(CheckResumeHook):
    """Check a run when it is built, before it loads a checkpoint and makes its first step.

    The model's parts must fit together and have the classes of the data, and synchronised batch
    norms need a GPU. Images and label
    maps are checked as they are loaded. A training must also pass ``preflight``, and trusts
    what it resumes no further than ``CheckResumeHook`` does.

    mmengine builds the model, the data sets of training and validation and the optimizer before it
    calls a hook for the first time. A mistake that keeps these from being built, such as a missing
    annotation file, a file that is no JSON or a misspelt type, is therefore told in mmengine's
    words. ``mmvanilla.preflight(cfg)`` before the runner is made, as in tools/train.py, is in time.

    Args:
        config: Whether to make the checks of ``preflight``; False where it was called.

    Raises:
        UserError: Before the run, at the first mistake.
    """

    def __init__(self, config: bool = True) -> None:
        self.config = config

    def before_run(self, runner: Runner) -> None:
        """Check."""
        if self is not [hook for hook in runner.hooks if isinstance(hook, PreflightHook)][-1]:
            return  # one that knows whether preflight was called was added to that of the config
        check_model(runner)
        # The public properties would build the loops that this run does without.
        loops = runner._train_loop, runner._val_loop, runner._test_loop
        if isinstance(loops[0], BaseLoop):
            check_norms(runner)
            super().before_run(runner)
            if self.config:
                preflight(runner.cfg)
        for part, loop in zip(('train', 'val', 'test'), loops, strict=True):
            if not isinstance(loop, BaseLoop):
                continue
            check_classes(runner.model, loop.dataloader.dataset, part)
            if use_checked_loading(loop.dataloader):
                _restart_workers(runner, loop)


def _restart_workers(runner: Runner, loop: BaseLoop) -> None:
    """Start the workers of an iteration-based training anew, with the data set as it is now."""
    batches, cfg = getattr(loop, 'dataloader_iterator', None), runner.cfg.get('train_dataloader')
    if batches is None or not loop.dataloader.num_workers or not isinstance(cfg, dict):
        return
    cfg = dict(cfg, dataset=loop.dataloader.dataset)  # with a sampler that begins anew
    differ = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
    with torch.random.fork_rng(devices=[]):  # the model draws what it would have drawn
        loop.dataloader = runner.build_dataloader(cfg, runner.seed, differ)
        loop.dataloader_iterator = type(batches)(loop.dataloader)


def check_loading(runner: Runner) -> None:
    """Let the data loaders that a runner builds from now on name the files they stumble over."""
    build = runner.build_dataloader

    def build_checked(*args: object, **kwargs: object) -> object:
        loader = build(*args, **kwargs)
        use_checked_loading(loader)
        return loader

    runner.build_dataloader = build_checked


def check_strategy(cfg: Config) -> None:
    """Check that a config shards no model.

    Raises:
        UserError: If it does.
    """
    types = [type_name(cfg.get(key)) for key in ('strategy', 'model_wrapper_cfg')]
    if any('FSDP' in name or 'FullySharded' in name for name in types):
        raise UserError(
            'the config shards the model (FSDP), which is not supported: deep training, fusion and '
            'checkpoints need all weights in every process; remove strategy, runner_type and '
            'model_wrapper_cfg'
        )
