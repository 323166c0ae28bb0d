"""Resuming: what a checkpoint may decide, and what the config does."""

import os
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner

from ...checks import report
from ...checks.record import Record, compare, record_of_checkpoint, record_of_config
from ...models import safe_loading
from .atomic_checkpoint import AtomicCheckpointHook


@HOOKS.register_module(name='CheckResumeHook')
@HOOKS.register_module()
class ResumeHook(Hook):
    """Compare a checkpoint with the run that loads it; keep a record of the config in new ones.

    A resumed run has the state of the checkpoint and the settings of its config: a schedule or an
    optimizer's settings that have changed hold from the resumed iteration on. Classes or an
    optimizer that have changed are refused. A path in the checkpoint is taken over only if it lies
    in the run's own folders, since mmengine deletes the best checkpoint that it names.

    Args:
        warn_only: Warn where a judgement would refuse.
    """

    priority = 'VERY_HIGH'

    def __init__(self, warn_only: bool = False) -> None:
        self.warn_only = warn_only
        self._settings: list[dict] | None = None  # of the optimizer, if they have changed

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the record of the config."""
        checkpoint['meta']['record'] = record_of_config(runner.cfg).to_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the config, and take paths elsewhere out of it.

        Raises:
            UserError: If this run cannot go on from it.
        """
        ours = record_of_config(runner.cfg)
        resumes = runner._resume  # no public name; the config lacks it in a Runner(...)
        theirs = record_of_checkpoint(checkpoint)
        report(compare(theirs, ours, 'resume' if resumes else 'load_from'), self.warn_only)
        if not resumes:
            return
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        for name in [n for n in info if not _harmless(n, info[n], runner)]:
            runner.logger.warning(f'{name} of the checkpoint is not taken over: {info[name]!r}')
            del info[name]
        if _differs(theirs, ours):
            self._settings = [
                {name: value for name, value in group.items() if name != 'params'}
                for group in _groups(runner)
            ]
            checkpoint.pop('param_schedulers', None)

    def before_train(self, runner: Runner) -> None:
        """Follow the config's schedule to the iteration that the training goes on from."""
        if self._settings is None:
            return
        for group, settings in zip(_groups(runner), self._settings, strict=True):
            group.update(settings)
        schedulers = runner.param_schedulers or []
        lists = list(schedulers.values()) if isinstance(schedulers, dict) else [schedulers]
        steps = [s for each in lists for s in each if not hasattr(s, 'monitor')]  # of no metric
        epochs, batches = runner.epoch, len(runner.train_dataloader)
        for done in range(1, runner.iter + 1):
            for scheduler in steps:
                if not scheduler.by_epoch or (done % batches == 0 and done // batches <= epochs):
                    scheduler.step()
        self._settings = None


def resumed_seed(cfg: Config) -> int | None:
    """Return the seed of the checkpoint that a config resumes, None if it resumes none.

    Data loaders are built, with the seed, before mmengine reads the checkpoint.
    """
    if not (cfg.get('resume') and cfg.get('load_from')):
        return None
    with safe_loading():
        checkpoint = CheckpointLoader.load_checkpoint(cfg.load_from, 'meta', 'silent')
    seed = checkpoint.get('meta', {}).get('seed')
    return seed if isinstance(seed, int) else None


def _harmless(name: str, value: object, runner: Runner) -> bool:
    """Tell whether an entry of the message hub names no files but the run's own."""
    if name == 'keep_ckpt_ids':
        return isinstance(value, list) and all(type(number) is int for number in value)
    by_name = any(isinstance(hook, AtomicCheckpointHook) for hook in runner.hooks)
    if by_name or not name.startswith(('best_ckpt', 'last_ckpt')) or value is None:
        return True  # AtomicCheckpointHook looks for files of that name in its own folder
    own = os.path.join(os.path.realpath(runner.work_dir), '')
    return isinstance(value, str) and os.path.realpath(value).startswith(own)


def _groups(runner: Runner) -> Iterator[dict]:
    wrapper: Any = runner.optim_wrapper
    for each in [wrapper] if isinstance(wrapper, OptimWrapper) else wrapper.values():
        yield from each.optimizer.param_groups


def _differs(theirs: Record, ours: Record) -> bool:
    """Tell whether the optimizer's settings or the schedule have changed, as far as is known."""
    before, now = (
        {k: v for k, v in (r.settings or {}).items() if k.startswith(('optimizer', 'schedule'))}
        for r in (theirs, ours)
    )
    return bool(before) and before != now
