"""A training loop that goes on in the midst of an epoch."""

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop

BATCHES_DONE = 'batches_done'


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Count epochs, and resume a checkpoint that was saved within one behind its last batch.

    mmengine's loop begins that epoch anew. The batches that were trained on are loaded, so that
    the augmentations of the others draw what they would have drawn, and passed over.
    """

    def run_epoch(self) -> None:
        """Train on what is left of an epoch."""
        runner = self.runner
        done = runner.message_hub.get_info(BATCHES_DONE, 0)
        first = self._iter - done
        runner.call_hook('before_train_epoch')
        runner.model.train()
        batches = iter(self.dataloader)
        for index in range(len(self.dataloader)):
            runner.call_hook('before_batch', iteration=first + index)
            data = next(batches)
            if index >= done:
                runner.message_hub.update_info(BATCHES_DONE, index + 1)
                self.run_iter(index, data)
        runner.message_hub.update_info(BATCHES_DONE, 0)
        runner.call_hook('after_train_epoch')
        self._epoch += 1
