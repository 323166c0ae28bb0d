"""A hook that lets a runner's model learn from a teacher."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checks import report
from ...checks.record import compare, record_of_checkpoint, record_of_config
from ...distill import Distillation
from ..distributed import together
from ..look import unwrap


@HOOKS.register_module()
class DistillHook(Hook):
    """Let the model of a training learn from a teacher; tests and predictions need no teacher.

    The runner's model is the student alone, and so are checkpoints and averages. The log has
    ``distill.loss_*``, too. The teacher is loaded before the first step.

    Args:
        teacher: Config of the teacher's model, or the name of a config file.
        warn_only: Log findings as warnings instead of raising them, unless the run would fail.
        **distillation: Other arguments of ``Distillation``.

    Raises:
        UserError: Before training and in the first step, if the two models do not fit.
    """

    def __init__(self, teacher: str | dict, warn_only: bool = False, **distillation: Any) -> None:
        self.warn_only = warn_only
        self.distillation = Distillation(teacher, **distillation)

    def before_train(self, runner: Runner) -> None:
        """Load the teacher and add its losses."""
        together(lambda: self._begin(runner))
        losses = [f'{type(loss).__name__} of {loss.module}' for loss in self.distillation.losses]
        kind = type(self.distillation.teacher).__name__
        runner.logger.info(f'The teacher is loaded ({kind}); added losses: {", ".join(losses)}')

    def _begin(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        self.distillation.attach(model)
        self.distillation.load(model)
        if any(loss.compares_classes for loss in self.distillation.losses):
            theirs = record_of_checkpoint(
                dict(meta=self.distillation.meta), "the teacher's checkpoint"
            )
            report(compare(theirs, record_of_config(runner.cfg), 'teacher'), self.warn_only)

    def after_train(self, runner: Runner) -> None:
        """Remove the losses and the teacher."""
        self.distillation.detach()

    abandon = after_train  # called by the loops after an error
