"""Deep training: a net is trained deeper than it is deployed."""

from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import UserError
from ...models import DeepTraining
from .switch_to_deploy import ema_hooks


@HOOKS.register_module()
class DeepTrainingHook(Hook):
    """Raise ``act_learn`` linearly from 0 to 1 over the first part of training (section 3.1).

    At 0 each layer has a ReLU between its two convolutions. At 1 it has none, and the convolutions
    can be fused. The value depends on the epoch or iteration only, so a resumed run continues
    exactly. The hook sets it on all modules that are trained deep and on their averaged copies.

    Args:
        end: The first epoch or iteration with a value of 1; epoch 100 of 300 in the paper.
        begin: The last epoch or iteration with a value of 0.
        by_epoch: Count epochs, as the paper does, or iterations.

    Raises:
        UserError: Before training, if the window is empty or does not end within the training, or
            if the model has no module in training form.
    """

    priority = 'HIGH'

    def __init__(self, end: int, begin: int = 0, by_epoch: bool = True) -> None:
        if not 0 <= begin < end:
            raise UserError(
                f'DeepTrainingHook has begin={begin} and end={end}, expected 0 <= begin < end'
            )
        self.begin, self.end, self.by_epoch = begin, end, by_epoch

    def before_train(self, runner: Runner) -> None:
        """Check that the window fits the training and that a net can be trained deep."""
        if self.by_epoch and 'max_epochs' not in runner.cfg.train_cfg:
            raise UserError(
                'DeepTrainingHook counts epochs, but training counts iterations; set '
                'by_epoch=False and its end in iterations'
            )
        total = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.end >= total:
            raise UserError(
                f'DeepTrainingHook ends at {self.end} of {total} '
                f'{"epochs" if self.by_epoch else "iterations"}, so act_learn would never be 1; '
                f'set its end to at most {total - 1}'
            )
        if all(net.deploy for net in self._nets(runner)):
            raise UserError(
                'DeepTrainingHook finds no net in training form; remove it from custom_hooks or '
                'set deploy=False on the backbone'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Set the value of this iteration."""
        now = runner.epoch if self.by_epoch else runner.iter
        act_learn = min(max((now - self.begin) / (self.end - self.begin), 0.0), 1.0)
        for net in self._nets(runner):
            net.act_learn = act_learn
        runner.message_hub.update_scalar('train/act_learn', act_learn)

    @staticmethod
    def _nets(runner: Runner) -> Iterator[DeepTraining]:
        for model in [runner.model, *(hook.ema_model for hook in ema_hooks(runner))]:
            yield from (module for module in model.modules() if isinstance(module, DeepTraining))
