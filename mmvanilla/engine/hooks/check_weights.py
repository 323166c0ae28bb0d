"""A comparison of a loaded model with its checkpoint."""

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...errors import CheckpointError
from ...models import VanillaNet
from ...models.weights import NO_BACKBONE, OPTIONAL, unwrapped
from ..look import unwrap


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Warn of weights that a checkpoint left random, and refuse one that left too many.

    For fine-tuning mmengine loads the tensors that fit. A checkpoint that has nothing of the model
    or of a backbone is refused. The backbone itself refuses weights of another net.

    Args:
        whole: Refuse a checkpoint with any tensor missing, for tests. Resuming always does.
    """

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole
        self._weights: dict | None = None

    def before_run(self, runner: Runner) -> None:
        """Forget what was loaded before the run."""
        for net in runner.model.modules():
            if isinstance(net, VanillaNet):
                net.weights_loaded = net.weights_loaded or None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the checkpoint's weights for the comparison."""
        self._weights = checkpoint.get('state_dict', checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Compare the model with the checkpoint.

        Raises:
            CheckpointError: If the model, a backbone or a needed tensor was not loaded.
        """
        model = unwrap(runner.model)
        model = unwrap(model.module) if isinstance(model, BaseTTAModel) else model
        nets = {name: net for name, net in model.named_modules() if isinstance(net, VanillaNet)}
        for name, net in nets.items():
            if net.weights_loaded is False:
                raise CheckpointError(NO_BACKBONE.format(name))
        if self._weights is None:
            return
        weights = {unwrapped(n): v for n, v in self._weights.items() if isinstance(v, Tensor)}
        self._weights = None
        here = {n: v for n, v in model.state_dict().items() if not n.endswith(OPTIONAL)}
        inside = tuple(f'{name}.' for name in nets)  # the nets pad kernels of a smaller act_num
        left = []
        for name, value in here.items():
            # mmdet's SoftTeacher loads each tensor as student.NAME and teacher.NAME.
            there = weights.get(name, weights.get(name.partition('.')[2]))
            shape = 'missing' if there is None else tuple(there.shape)
            loaded = there is not None and torch.equal(value, there.to(value))
            if not loaded and (there is None or not name.startswith(inside)):
                left.append(f'{name} (here {tuple(value.shape)}, there {shape})')
        if not left:
            return
        text = f'{len(left)} of {len(here)} tensors of the model are not in the checkpoint: '
        text += ', '.join(left[:3])
        if self.whole or runner._resume or len(left) == len(here):
            raise CheckpointError(f'{text}; use the checkpoint of this config')
        runner.logger.warning(f'{text}; they keep their initial values')

    before_val = before_test = before_train
