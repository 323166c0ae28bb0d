"""A check of losses and weights while training."""

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import UserError


@HOOKS.register_module()
class CheckLossHook(Hook):
    """Stop training at a loss that is not finite, in every process, before anything is saved."""

    priority = 'HIGH'  # before EMAHook averages the weights and a checkpoint is saved

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Check the losses of an iteration.

        Raises:
            UserError: If one is not finite; the message names the iteration and the images.
        """
        values = [torch.as_tensor(value) for value in (outputs or {}).values()]
        device = next((value.device for value in values if value.device.type != 'cpu'), 'cpu')
        bad = [(~torch.isfinite(value)).any().to(device) for value in values]
        # All flags are copied to the host at once.
        flags = torch.stack(bad).int() if bad else torch.zeros(1, dtype=torch.int32)
        anywhere = flags.amax(0, keepdim=True)
        all_reduce(anywhere, 'max')
        stop, *bad = torch.cat([anywhere, flags]).tolist()
        if not stop:
            return
        wrong = [name for name, is_bad in zip(outputs or {}, bad, strict=False) if is_bad]
        where = f'not finite in iteration {runner.iter + 1}'
        if not wrong:
            raise UserError(f'another process has a loss that is {where}')
        raise UserError(
            f'{", ".join(wrong)} {"is" if len(wrong) == 1 else "are"} {where}, on '
            f'{_images(data_batch)}; check these images, lower the learning rate or clip the '
            'gradients'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights, which may overflow although the last loss was finite.

        Raises:
            UserError: If one is not finite; nothing is saved.
        """
        for name, value in checkpoint['state_dict'].items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise UserError(
                    f'{name!r} is no longer finite after iteration {checkpoint["meta"]["iter"]}, '
                    'so no checkpoint is written; lower the learning rate or clip the gradients'
                )


def _images(data_batch: object) -> str:
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    paths = [getattr(sample, 'img_path', None) for sample in samples]
    return ', '.join(map(str, filter(None, paths))) or 'images of unknown names'
