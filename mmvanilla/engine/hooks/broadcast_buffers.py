"""One set of batch-norm statistics for all processes."""

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...models import DeepTraining


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Validate with the buffers of the first process, which are saved, in every process.

    Running statistics differ if each process normalises by its own images, as on CPUs.
    """

    priority = 'VERY_HIGH'  # before averaged weights are put in and a copy is fused

    def before_val_epoch(self, runner: Runner) -> None:
        """Copy the buffers of the first process to the others."""
        for module in runner.model.modules():
            for buffer in module.buffers(recurse=False):
                broadcast(buffer)
            if isinstance(module, DeepTraining):
                module.refresh_act_learn()
