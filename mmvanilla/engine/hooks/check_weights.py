"""A look at what a checkpoint leaves random."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ...errors import CheckpointError
from ...models import VanillaNet
from ...models.weights import NO_BACKBONE, OPTIONAL, unwrapped


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Say which weights a checkpoint left random, and refuse one that left too many.

    For fine-tuning mmengine loads the tensors that fit, and the log warns of the others. A
    checkpoint that has nothing of the model or of a backbone is refused. The backbone itself
    refuses weights of another net.

    Args:
        whole: Whether everything must be in the checkpoint, as for a test and to resume.
    """

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole
        self._before: dict[str, tuple[Tensor, int]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def before_run(self, runner: Runner) -> None:
        """Forget what was loaded before the run."""
        for net in runner.model.modules():
            if isinstance(net, VanillaNet):
                net.found = net.found or None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the model's tensors and their versions, which loading changes."""
        self._before = {name: (value, value._version) for name, value in tensors(runner).items()}
        weights = checkpoint.get('state_dict', checkpoint)
        found = {unwrapped(n): v for n, v in weights.items() if isinstance(v, Tensor)}
        self._shapes = {name: tuple(value.shape) for name, value in found.items()}

    def before_train(self, runner: Runner) -> None:
        """Look at which tensors were loaded.

        Raises:
            CheckpointError: If none of the model or of a backbone was, or not all that are needed.
        """
        for name, net in runner.model.named_modules():
            if isinstance(net, VanillaNet) and net.found is False:
                raise CheckpointError(NO_BACKBONE.format(name))
        before, self._before, now = self._before, {}, tensors(runner)
        left = [
            n
            for n, seen in before.items()
            if n in now and now[n] is seen[0] and now[n]._version == seen[1]
        ]
        if not left:
            return
        reasons = []
        for name in left[:3]:
            found = self._shapes.get(name, 'missing')
            reasons.append(f'{name} (here {tuple(now[name].shape)}, there {found})')
        text = f'{len(left)} of {len(before)} tensors of the model are not in the checkpoint: '
        text += ', '.join(reasons) + (', ...' if len(left) > 3 else '')
        if self.whole or runner._resume or len(left) == len(before):
            raise CheckpointError(f'{text}; use the checkpoint of this config')
        runner.logger.warning(f'{text}; they keep their initial values')

    before_val = before_test = before_train


def tensors(runner: Runner) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint must have, by name."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if not name.endswith(OPTIONAL)}
