"""Training loops that stop at a signal and resume within an epoch."""

from contextlib import nullcontext
from typing import Any

import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from ..errors import UserError
from .loaders import pass_over, start
from .look import watched
from .signals import noted_signals

BATCHES_DONE = 'batches_done'
BATCHES_PER_EPOCH = 'batches_an_epoch'


class _CheckedLoop:
    """Mixin of both loops that notes signals and checks the first step."""

    _first_step_done = False

    def run(self) -> torch.nn.Module:
        """Train and note signals; after an error hooks release locks and swapped weights."""
        runner = self.runner  # type: ignore[attr-defined]
        if runner.iter >= runner.max_iters:
            runner.logger.warning(
                f'The training is complete after {runner.iter} of {runner.max_iters} iterations; '
                'to go on, raise max_epochs or max_iters of train_cfg'
            )
        try:
            with noted_signals():
                return super().run()  # type: ignore[misc]
        except BaseException:
            for hook in runner.hooks:
                if hasattr(hook, 'abandon'):
                    hook.abandon(runner)
            raise

    def run_iter(self, *batch: Any) -> None:
        """Train on a batch; the first one shows whether the parts of the model fit."""
        first = not self._first_step_done
        with watched(self.runner.model) if first else nullcontext():  # type: ignore
            super().run_iter(*batch)  # type: ignore[misc]
        self._first_step_done = True


@LOOPS.register_module()
class ResumableIterLoop(_CheckedLoop, IterBasedTrainLoop):
    """Count iterations; ``StopOnSignalHook`` saves and stops at SIGTERM and SIGINT.

    A resumed run first loads the batches that were trained on, as mmengine does.
    """


@LOOPS.register_module()
class ResumableEpochLoop(_CheckedLoop, EpochBasedTrainLoop):
    """Count epochs, and resume within an epoch, after the last batch of the checkpoint.

    mmengine's loop would start the epoch again. ``StopOnSignalHook`` saves and stops at SIGTERM and
    SIGINT.
    """

    def run(self) -> torch.nn.Module:
        """Train; start a resumed epoch again if the number of its batches has changed."""
        hub, number = self.runner.message_hub, len(self.dataloader)
        before, done = hub.get_info(BATCHES_PER_EPOCH, number), hub.get_info(BATCHES_DONE, 0)
        if done and before != number:
            self.runner.logger.warning(
                f'An epoch has {number} batches now and had {before} when the checkpoint was '
                f'saved after {done} of them; epoch {self._epoch + 1} starts again'
            )
            hub.update_info(BATCHES_DONE, 0)
        hub.update_info(BATCHES_PER_EPOCH, number)
        return super().run()

    def run_epoch(self) -> None:
        """Train on the rest of an epoch.

        Raises:
            UserError: If the sampler gives more batches than its length, such as an endless one.
        """
        runner, number = self.runner, len(self.dataloader)
        done = runner.message_hub.get_info(BATCHES_DONE, 0)
        runner.call_hook('before_train_epoch')
        runner.model.train()
        loaded = pass_over(self.dataloader, done)
        # No early end: a sampler may give less than its length, and clean up after its last batch.
        for index, data in enumerate(start(self.dataloader), done - loaded):
            if index >= number:
                sampler = self.dataloader.batch_sampler
                while inner := getattr(sampler, 'source', getattr(sampler, 'sampler', None)):
                    sampler = inner
                raise UserError(
                    f'an epoch has {number} batches, and {type(sampler).__name__} gives more; use '
                    'a DefaultSampler, or a loop that counts iterations (ResumableIterLoop)'
                )
            if index >= done:
                runner.message_hub.update_info(BATCHES_DONE, index + 1)
                self.run_iter(index, data)
        runner.message_hub.update_info(BATCHES_DONE, 0)
        runner.call_hook('after_train_epoch')
        self._epoch += 1
