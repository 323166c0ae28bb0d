"""A check of what `load_from` loads."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...errors import CheckpointError
from ...models.weights import OPTIONAL


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Refuse a checkpoint that would leave a part of the model half loaded.

    mmengine only warns, and goes on with what is random. The backbone refuses by itself.

    Args:
        whole: Whether everything must be in the checkpoint, as for a test. Otherwise heads may lack
            or differ, as for fine-tuning on other classes, and so may a part of which the
            checkpoint has nothing at all, such as the neck in an ImageNet net's.
    """

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the names and shapes of a checkpoint with the model's.

        Raises:
            CheckpointError: If a tensor is missing or has another shape.
        """
        check_weights(runner.model, checkpoint, self.whole)


def check_weights(model: nn.Module, checkpoint: dict, whole: bool) -> None:
    """Compare the names and shapes of a checkpoint with a model's; the backbone checks its own.

    Args:
        model: The model, wrapped or not.
        checkpoint: What was in the file.
        whole: As in :class:`CheckWeightsHook`.

    Raises:
        CheckpointError: If a tensor is missing or has another shape.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    weights = checkpoint.get('state_dict', checkpoint)
    found = {name.removeprefix('module.'): value for name, value in weights.items()}
    parts = {name.split('.')[0] for name in found}
    for name, value in model.state_dict().items():
        part = name.split('.')[0]
        if part == 'backbone' or name.endswith(OPTIONAL):
            continue
        if not whole and (part.endswith('head') or part not in parts):
            continue
        if name not in found:
            raise CheckpointError(
                f'the checkpoint lacks {name!r}, so a part of the model would stay random; '
                'use the checkpoint of this config'
            )
        if found[name].shape != value.shape:
            raise CheckpointError(
                f'{name!r} has the shape {tuple(found[name].shape)} in the checkpoint and '
                f'{tuple(value.shape)} in the model; use the checkpoint of this config'
            )
