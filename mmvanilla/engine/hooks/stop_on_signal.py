"""Leaving a training cleanly at SIGTERM (pre-emption by Slurm) and SIGINT (Ctrl-C)."""

import signal

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..signals import noted_signals
from .atomic_checkpoint import AtomicCheckpointHook


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Save and stop every process after the iteration with SIGTERM or SIGINT.

    The exit code is the shell's for a signal: 143 after SIGTERM, 130 after SIGINT. A validation is
    finished first, as is a training in its last iteration. SIGQUIT ends at once. The signals are
    noted by ``ResumableEpochLoop`` and ``ResumableIterLoop``; another loop ends at once.
    """

    priority = 'LOWEST'  # when everything else of the iteration is done

    def before_train(self, runner: Runner) -> None:
        """Warn of a loop that does not note signals."""
        if noted_signals.active is None:
            runner.logger.warning(
                f'{type(runner.train_loop).__name__} ends at SIGTERM and Ctrl-C without a '
                'checkpoint; set train_cfg.type to ResumableEpochLoop or ResumableIterLoop'
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Save and leave, if any process was asked to.

        Raises:
            SystemExit: With 128 plus the number of the signal.
        """
        active = noted_signals.active
        received = torch.tensor(active.received if active else 0)
        all_reduce(received, 'max')
        if not received or runner.iter + 1 == runner.max_iters:
            return
        number = int(received)
        savers = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        if savers and isinstance(savers[0], AtomicCheckpointHook):
            path = savers[0].save_interrupted(runner)
            saved = f'saved {path} after iteration {runner.iter + 1}; go on with --resume'
        else:
            saved = (
                'nothing is saved; that needs default_hooks.checkpoint.type=AtomicCheckpointHook'
            )
        runner.logger.warning(f'{signal.Signals(number).name}: {saved}')
        raise SystemExit(128 + number)
