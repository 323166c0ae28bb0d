"""Deep training, shallow inference: a hook that tests and validates the fused net."""

import io
import os
from collections.abc import Callable

import torch
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from ...errors import UserError
from ...models import fuse, safe_loading
from ...models.twins import add_twins, drop_twins, fused_weights
from ...whole_files import replace_file
from ..look import unwrap


@HOOKS.register_module()
class SwitchToDeployHook(Hook):
    """Test the deploy form of VanillaNet, and validate it while training goes on.

    A test fuses the runner's model for good. In a validation each fusable module computes with a
    fused twin, so the weights in training stay the same to the last bit. A net that cannot be
    fused, as during deep training, is used in training form, and the log says why.

    Args:
        save: At the end of training write ``*_deploy.pth``, fused, next to the best checkpoint, or
            next to the last one where no best one is kept.
    """

    # After EMAHook has put the averaged weights in place, before CheckpointHook saves the best.
    priority = 'LOW'

    def __init__(self, save: bool = False) -> None:
        self.save = save
        self._validates = False

    def before_test(self, runner: Runner) -> None:
        """Fuse the runner's model and the averaged copies of EMAHook."""
        averaged = [hook.ema_model for hook in ema_hooks(runner)]
        if possible(lambda: fuse(nn.ModuleList([runner.model, *averaged])), runner):
            runner.logger.info('The deploy form is tested')

    def before_val_epoch(self, runner: Runner) -> None:
        """Fuse twins from the current weights."""
        self._validates = True
        possible(lambda: add_twins(unwrap(runner.model)), runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Drop the twins."""
        self._validates = False
        drop_twins(runner.model)

    def abandon(self, runner: Runner) -> None:
        """Undo the beginning of a validation that an error or Ctrl-C has ended."""
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

        def write() -> None:
            weights = fused_weights(unwrap(runner.model), checkpoint['state_dict'])
            torch.save(dict(meta=checkpoint['meta'], state_dict=weights), content)
            replace_file(target, content.getvalue())
            runner.logger.info(f'{target} holds the deploy form of {file}')

        possible(write, runner)


def possible(fusion: Callable[[], object], runner: Runner) -> bool:
    """Fuse, or log why the net stays in training form; return which."""
    try:
        fusion()
    except UserError as error:
        runner.logger.warning(f'The training form is used: {error}')
        return False
    return True


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
