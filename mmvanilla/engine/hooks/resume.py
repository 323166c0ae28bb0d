"""Resume with the state of a checkpoint and the settings of the config."""

import os
from contextlib import ExitStack
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint

from ...checks import report
from ...checks.record import Record, compare, record_of_checkpoint, record_of_config
from ...errors import CheckpointError
from ...models import safe_loading
from ...renamed import old_name
from .atomic_checkpoint import AtomicCheckpointHook


@HOOKS.register_module()
class ResumeHook(Hook):
    """Compare a checkpoint with the config; save a record of the config in new checkpoints.

    A changed schedule or changed settings of the optimizer apply from the resumed iteration on.
    Other classes and another optimizer are refused. Paths in the checkpoint must lie in the work
    dir, since mmengine deletes the best checkpoint named there.

    Args:
        warn_only: Log findings as warnings instead of raising them, unless the run would fail.
    """

    priority = 'VERY_HIGH'

    def __init__(self, warn_only: bool = False) -> None:
        self.warn_only = warn_only
        self._settings: list[dict] | None = None  # of the optimizer, if they have changed
        self._loading = ExitStack()

    def before_run(self, runner: Runner) -> None:
        """Make the load of the checkpoint, which follows, run no code from it."""
        if runner._resume:  # no public name; runner.cfg of a Runner(...) has none
            self._loading.enter_context(safe_loading())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the record of the config."""
        checkpoint['meta']['record'] = record_of_config(runner.cfg).to_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the config, and remove paths outside the work dir from it.

        Raises:
            CheckpointError: If the checkpoint does not fit the config.
        """
        ours, theirs = record_of_config(runner.cfg), record_of_checkpoint(checkpoint)
        resumes = runner._resume
        found = compare(theirs, ours, 'resume' if resumes else 'load_from')
        report(found, self.warn_only, CheckpointError)
        if not resumes:
            return
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        for name in [n for n in info if not _harmless(n, info[n], runner)]:
            runner.logger.warning(f'{name} of the checkpoint is not taken over: {info[name]!r}')
            del info[name]
        before, now = _optimization(theirs), _optimization(ours)
        if before and before != now:
            self._settings = [
                {name: value for name, value in group.items() if name != 'params'}
                for group in _flat(runner.optim_wrapper.param_groups)
            ]
            checkpoint.pop('param_schedulers', None)

    def before_train(self, runner: Runner) -> None:
        """Step a changed schedule up to the resumed iteration."""
        self._loading.close()
        if self._settings is None:
            return
        groups = _flat(runner.optim_wrapper.param_groups)
        for group, settings in zip(groups, self._settings, strict=True):
            group.update(settings)
        # A scheduler with a monitor follows a metric.
        schedulers = [s for s in _flat(runner.param_schedulers or []) if not hasattr(s, 'monitor')]
        epochs, batches = runner.epoch, len(runner.train_dataloader)
        for done in range(1, runner.iter + 1):
            for scheduler in schedulers:
                if not scheduler.by_epoch or (done % batches == 0 and done // batches <= epochs):
                    scheduler.step()
        self._settings = None


def resumed_seed(cfg: Config) -> int | None:
    """Return the seed of the checkpoint that a config resumes, or None.

    Data loaders are built, with the seed, before mmengine reads the checkpoint.
    """
    if not cfg.get('resume'):
        return None
    file = cfg.get('load_from') or find_latest_checkpoint(cfg.work_dir)  # as the runner does
    if not file:
        return None
    with safe_loading():
        checkpoint = CheckpointLoader.load_checkpoint(file, 'meta', 'silent')
    seed = checkpoint.get('meta', {}).get('seed')
    return seed if isinstance(seed, int) else None


def _harmless(name: str, value: object, runner: Runner) -> bool:
    """Return whether an entry of the message hub names only files of the work dir."""
    if name == 'keep_ckpt_ids':
        return isinstance(value, list) and all(type(number) is int for number in value)
    # AtomicCheckpointHook looks for the file name in its own folder only.
    by_name = any(isinstance(hook, AtomicCheckpointHook) for hook in runner.hooks)
    if by_name or not name.startswith(('best_ckpt', 'last_ckpt')) or value is None:
        return True
    own = os.path.join(os.path.realpath(runner.work_dir), '')
    return isinstance(value, str) and os.path.realpath(value).startswith(own)


def _flat(value: Any) -> list:
    """Return one list; with several optimizers ``value`` is a dict of lists."""
    return [e for each in value.values() for e in each] if isinstance(value, dict) else value


def _optimization(record: Record) -> dict:
    """Return the settings of the optimizer and the schedule, as far as they are known."""
    settings = (record.settings or {}).items()
    return {key: value for key, value in settings if key.startswith(('optimizer', 'schedule'))}


HOOKS.register_module(module=old_name('CheckResumeHook', ResumeHook))
