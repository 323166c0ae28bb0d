"""Deep training, shallow inference: test and validate the fused net."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from ...errors import UserError
from ...models import fuse, safe_loading
from ...whole_files import replace_file
from ..look import unwrap
from ..twins import add_twins, drop_twins, fused_weights


@HOOKS.register_module()
class SwitchToDeployHook(Hook):
    """Test and validate the deploy form of VanillaNet.

    A test fuses the runner's model for good. In a validation each fusable module computes with a
    fused twin, so the weights in training stay the same to the last bit. A net that cannot be
    fused, as during deep training, is used in training form, and the log gives the reason.

    Args:
        save: At the end of training write the fused ``*_deploy.pth`` next to the best checkpoint,
            or next to the last one if there is no best one.
    """

    # After EMAHook has put the averaged weights in place, before CheckpointHook saves the best.
    priority = 'LOW'

    def __init__(self, save: bool = False) -> None:
        self.save = save
        self._validates = False

    def before_test(self, runner: Runner) -> None:
        """Fuse the runner's model and the averaged copies of EMAHook."""
        averaged = [hook.ema_model for hook in ema_hooks(runner)]
        with _training_form_on_error(runner):
            fuse(nn.ModuleList([runner.model, *averaged]))
            runner.logger.info('The deploy form is tested')

    def before_val_epoch(self, runner: Runner) -> None:
        """Fuse twins from the current weights."""
        self._validates = True
        with _training_form_on_error(runner):
            add_twins(unwrap(runner.model))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Drop the twins."""
        self._validates = False
        drop_twins(runner.model)

    def abandon(self, runner: Runner) -> None:
        """End a validation after an error or Ctrl-C."""
        if self._validates:
            for hook in [*ema_hooks(runner), self]:
                hook.after_val_epoch(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the fused checkpoint."""
        file = self.save and kept_checkpoint(runner)
        if not file:
            return
        with safe_loading():
            checkpoint = CheckpointLoader.load_checkpoint(file, 'cpu', 'silent')
        content, target = io.BytesIO(), f'{os.path.splitext(file)[0]}_deploy.pth'
        with _training_form_on_error(runner):
            weights = fused_weights(unwrap(runner.model), checkpoint['state_dict'])
            torch.save(dict(meta=checkpoint['meta'], state_dict=weights), content)
            replace_file(target, content.getvalue())
            runner.logger.info(f'{target} holds the deploy form of {file}')


@contextmanager
def _training_form_on_error(runner: Runner) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        runner.logger.warning(f'The training form is used: {error}')


def ema_hooks(runner: Runner) -> list[EMAHook]:
    """Return the runner's hooks that keep averaged weights."""
    return [hook for hook in runner.hooks if isinstance(hook, EMAHook)]


def kept_checkpoint(runner: Runner) -> str | None:
    """Return the path of the best checkpoint, else of the last one."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            best = getattr(hook, 'best_ckpt_path_dict', None) or {}
            paths = [getattr(hook, 'best_ckpt_path', None), *best.values(), hook.last_ckpt]
            return next((path for path in paths if path and os.path.isfile(path)), None)
    return None
