"""Testing at full speed: a hook that accelerates the model that is tested."""

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import UserError
from .accelerate import accelerate


@HOOKS.register_module()
class AccelerateHook(Hook):
    """Accelerate the runner's model before a test, once and for all."""

    priority = 'LOWEST'  # after every other hook has seen the weights

    def before_test(self, runner: Runner) -> None:
        """Accelerate.

        Raises:
            UserError: If the net cannot be fused, or averaged weights are to be swapped in.
        """
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UserError(
                'EMAHook swaps weights, of which an accelerated model has none; test a checkpoint '
                'of the averaged weights without that hook'
            )
        accelerate(runner.model)
        runner.logger.info('The accelerated model is tested')
