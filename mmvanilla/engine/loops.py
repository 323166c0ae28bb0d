"""A training loop that goes on in the midst of an epoch."""

import itertools

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop

from ..errors import UserError

BATCHES_DONE = 'batches_done'
BATCHES = 'batches_an_epoch'
END = object()


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Count epochs, and resume a checkpoint that was saved within one behind its last batch.

    mmengine's loop begins that epoch anew. The batches that were trained on are loaded, so that
    the augmentations of the others draw what they would have drawn, and passed over.
    """

    def run(self) -> torch.nn.Module:
        """Train.

        Raises:
            UserError: If the data loader's sampler never ends, so that no epoch would.
        """
        for sampler in (self.dataloader.sampler, self.dataloader.batch_sampler):
            sampler = getattr(sampler, 'sampler', sampler)
            # mmdet's MultiSourceSampler, by its name: a classifier comes without mmdet.
            endless = isinstance(sampler, InfiniteSampler) or any(
                kind.__name__ == 'MultiSourceSampler' for kind in type(sampler).__mro__
            )
            if endless:
                raise UserError(
                    f'train_dataloader.sampler is a {type(sampler).__name__}, which never ends, '
                    'but ResumableEpochLoop counts epochs; use a DefaultSampler, or an '
                    'IterBasedTrainLoop with max_iters'
                )
        self._count_batches()
        return super().run()

    def _count_batches(self) -> None:
        """Begin a resumed epoch anew if its batches are no longer those that were counted."""
        hub, number = self.runner.message_hub, len(self.dataloader)
        before, done = hub.get_info(BATCHES, number), hub.get_info(BATCHES_DONE, 0)
        if done and before != number:
            self.runner.logger.warning(
                f'An epoch has {number} batches now and had {before} when the checkpoint was '
                f'saved after {done} of them; epoch {self._epoch + 1} begins anew'
            )
            hub.update_info(BATCHES_DONE, 0)
        hub.update_info(BATCHES, number)

    def run_epoch(self) -> None:
        """Train on what is left of an epoch."""
        runner = self.runner
        done = runner.message_hub.get_info(BATCHES_DONE, 0)
        first = self._iter - done
        runner.call_hook('before_train_epoch')
        runner.model.train()
        batches = iter(self.dataloader)
        # To the end, whatever len() says: a sampler may give less, and clears up behind its last
        # batch, as mmdet's AspectRatioBatchSampler does.
        for index in itertools.count():
            runner.call_hook('before_batch', iteration=first + index)
            data = next(batches, END)
            if data is END:
                break
            if index >= done:
                runner.message_hub.update_info(BATCHES_DONE, index + 1)
                self.run_iter(index, data)
        runner.message_hub.update_info(BATCHES_DONE, 0)
        runner.call_hook('after_train_epoch')
        self._epoch += 1
