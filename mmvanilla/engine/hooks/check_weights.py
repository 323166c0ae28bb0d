"""A check of what `load_from` loads."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...models.weights import check_weights


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
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        weights = checkpoint.get('state_dict', checkpoint)
        found = {name.removeprefix('module.'): value for name, value in weights.items()}
        parts = {name.split('.')[0] for name in found}

        def needed(name: str) -> bool:
            part = name.split('.')[0]
            optional = part.endswith('head') or part not in parts
            return part != 'backbone' and (self.whole or not optional)

        check_weights(model, found, needed)
