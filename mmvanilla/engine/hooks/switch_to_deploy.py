"""Deep training, shallow inference: a hook that tests and validates the fused net."""

import copy
import io
import os
from collections.abc import Callable

import torch
from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from ...errors import UserError
from ...models import fuse, safe_loading
from .atomic_checkpoint import replace_file


@HOOKS.register_module()
class SwitchToDeployHook(Hook):
    """Test the deploy form of VanillaNet, and validate a fused copy while training goes on.

    A test fuses the runner's model, once and for all. A validation runs on a copy, so the weights
    in training stay what they are, to the last bit. Where the net cannot be fused, as in the midst
    of deep training, the training form is used, and the log says why.

    Args:
        save: At the end of training write ``*_deploy.pth``, fused, beside the best checkpoint, or
            beside the last one where no best one is kept.
    """

    # After EMAHook has put the averaged weights in place, before CheckpointHook saves the best.
    priority = 'LOW'

    def __init__(self, save: bool = False) -> None:
        self.save = save
        self._in_training: nn.Module | None = None

    def before_test(self, runner: Runner) -> None:
        """Fuse the runner's model, and its averaged copies, with which EMAHook swaps weights."""
        averaged = [hook.ema_model for hook in ema_hooks(runner)]
        if fuse_or_warn(nn.ModuleList([runner.model, *averaged]), runner):
            runner.logger.info('The deploy form is tested')

    def before_train(self, runner: Runner) -> None:
        """See to it that a validation that fails leaves the model in training as it was."""
        if runner.val_loop is not None:
            runner.val_loop.run = self._restoring(runner.val_loop.run, runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Put a fused copy in the place of the model in training."""
        self._in_training = runner.model
        # Not of a wrapper, which may hold process groups.
        model = copy.deepcopy(unwrap(runner.model))
        vars(model).pop('val_step', None)  # a compiled one would call the original
        if fuse_or_warn(model, runner):
            runner.model = model

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Put the model in training back."""
        runner.model, self._in_training = self._in_training, None

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the fused checkpoint."""
        file = self.save and kept_checkpoint(runner)
        if not file:
            return
        model = copy.deepcopy(unwrap(runner.model)).cpu()
        with safe_loading():
            checkpoint = load_checkpoint(model, file, map_location='cpu', logger='silent')
        if fuse_or_warn(model, runner):
            target = f'{os.path.splitext(file)[0]}_deploy.pth'
            content = io.BytesIO()
            torch.save(dict(meta=checkpoint['meta'], state_dict=model.state_dict()), content)
            replace_file(target, content.getvalue())
            runner.logger.info(f'{target} holds the deploy form of {file}')

    def _restoring(self, run: Callable[[], dict], runner: Runner) -> Callable[[], dict]:
        """Wrap a validation so that an error undoes what its beginning did."""

        def run_and_restore() -> dict:
            try:
                return run()
            except BaseException:
                if self._in_training is not None:
                    for hook in ema_hooks(runner):
                        hook.after_val_epoch(runner)
                    self.after_val_epoch(runner)
                raise

        return run_and_restore


def fuse_or_warn(model: nn.Module, runner: Runner) -> bool:
    """Fuse a model in place, or log why it stays in training form; tell which."""
    try:
        fuse(model)
    except UserError as error:
        runner.logger.warning(f'The training form is used: {error}')
        return False
    return True


def ema_hooks(runner: Runner) -> list[EMAHook]:
    """Return the runner's hooks that keep averaged weights."""
    return [hook for hook in runner.hooks if isinstance(hook, EMAHook)]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DDP and the like."""
    while is_model_wrapper(model):
        model = model.module
    return model


def kept_checkpoint(runner: Runner) -> str | None:
    """Return the path of the best checkpoint, of the last where there is no best one."""
    info = runner.message_hub.runtime_info
    best = [path for name, path in info.items() if name.startswith('best_ckpt') and path]
    return best[0] if best else info.get('last_ckpt')
