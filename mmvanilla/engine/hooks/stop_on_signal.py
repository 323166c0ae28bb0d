"""Leaving cleanly when asked to: pre-emption by Slurm, Ctrl-C."""

import os
import signal
import threading

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..loops import ResumableEpochLoop
from .atomic_checkpoint import AtomicCheckpointHook

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Save and stop after the iteration in which SIGTERM or SIGINT came, in every process.

    The exit code is the shell's for a signal: 143 after SIGTERM, 130 after SIGINT. A validation is
    finished first, as is a training in its last iteration. SIGQUIT ends at once.
    """

    priority = 'LOWEST'  # when everything else of the iteration is done

    def __init__(self) -> None:
        self._received = 0
        self._previous: dict = {}

    def before_train(self, runner: Runner) -> None:
        """Take over the signals; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Save and leave, if any process was asked to.

        Raises:
            SystemExit: With 128 plus the number of the signal.
        """
        received = torch.tensor(self._received)
        all_reduce(received, 'max')
        if not received or runner.iter + 1 == runner.max_iters:
            return
        number = int(received)
        runner.logger.warning(f'{signal.Signals(number).name}: {self._save(runner)}')
        self.after_train(runner)
        raise SystemExit(128 + number)

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: object) -> None:
        self._received = number

    @staticmethod
    def _save(runner: Runner) -> str:
        """Save what can be resumed within an epoch; say what there is to go on from."""
        loop = runner.train_loop
        savers = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        midst = isinstance(loop, EpochBasedTrainLoop) and not isinstance(loop, ResumableEpochLoop)
        if midst or not savers or not isinstance(savers[0], AtomicCheckpointHook):
            return (
                'nothing is saved within an epoch; that needs train_cfg.type=ResumableEpochLoop '
                'and default_hooks.checkpoint.type=AtomicCheckpointHook'
            )
        path = savers[0].save_interrupted(runner)
        return f'saved {path} after iteration {runner.iter + 1}; go on with --resume'


def leave_signals_to_parent() -> None:
    """Let a data-loading worker end when its parent says so, and not when a whole job is signalled.

    Slurm signals every process of a job, and a terminal its whole group; training needs its workers
    until it has saved.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
