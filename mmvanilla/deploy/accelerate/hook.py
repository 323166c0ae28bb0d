"""A hook that accelerates the tested model."""

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import UserError
from .accelerate import accelerate


@HOOKS.register_module()
class AccelerateHook(Hook):
    """Accelerate the runner's model before a test, for good."""

    priority = 'LOWEST'  # after all other hooks have seen the weights

    def before_test(self, runner: Runner) -> None:
        """Accelerate the model.

        Raises:
            UserError: If the net cannot be fused, or EMAHook would swap in averaged weights.
        """
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UserError(
                'EMAHook swaps weights, and an accelerated model has none; test a checkpoint of '
                'the averaged weights without that hook'
            )
        accelerate(runner.model)
        runner.logger.info('The accelerated model is tested')
