"""A hook that lets a runner's model learn from a teacher."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checks import compare, record_of_checkpoint, record_of_config, report
from .distillation import Distillation


@HOOKS.register_module()
class DistillHook(Hook):
    """Let the model of a training learn from a teacher; tests and predictions need no teacher.

    The runner's model stays the student itself, so everything that works for it works unchanged,
    and checkpoints hold the student only. The log has ``distill.loss_*`` as well. The teacher is
    loaded before the first step, after the student's weights.

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
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        learning = self.distillation
        learning.attach(model)
        learning.load(model)
        compared = [loss for loss in learning.losses if loss.compares_classes]
        if compared:
            theirs = record_of_checkpoint(learning.checkpoint, "the teacher's checkpoint")
            report(compare(theirs, record_of_config(runner.cfg), 'teacher'), self.warn_only)
        kind = type(learning.teacher).__name__
        losses = ', '.join(f'{type(loss).__name__} of {loss.module}' for loss in learning.losses)
        runner.logger.info(f'The student learns from a {kind}: {losses}')

    def after_train(self, runner: Runner) -> None:
        """Remove the losses and the teacher."""
        self.distillation.detach()

    abandon = after_train  # called by the loops after an error
