"""Checks of a built model, before anything runs."""

from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from ..errors import UserError
from ..models import VanillaNet


def check_model(runner: Runner) -> None:
    """Check that the parts of a runner's model fit together and the machine.

    Raises:
        UserError: If a neck's or head's channels are not the backbone's, the images are set to be
            smaller than the backbone's stride, or batch norms are to be synchronised on CPUs.
    """
    synced = any(isinstance(module, nn.SyncBatchNorm) for module in runner.model.modules())
    if synced and get_device() == 'cpu':
        raise UserError('the config asks for SyncBN, which needs GPUs; set norm_cfg.type=BN')
    for model in runner.model.modules():
        if isinstance(getattr(model, 'backbone', None), VanillaNet):
            _check_channels(model)
            _check_size(model)


def _check_channels(model: nn.Module) -> None:
    """Compare the channels of what stands on the backbone with the backbone's."""
    given = list(model.backbone.out_channels)
    # With a neck, the heads stand on that.
    names = ['neck'] if getattr(model, 'neck', None) else ['decode_head', 'auxiliary_head']
    for name in names:
        part = getattr(model, name, None)
        expected = getattr(part, 'in_channels', None)
        index = getattr(part, 'in_index', None)
        if isinstance(index, int):
            found = given[index]
        else:
            found = given if index is None else [given[i] for i in index]
        if expected is not None and list_of(expected) != list_of(found):
            raise UserError(
                f'model.{name}.in_channels is {expected}, but the backbone gives {found}; '
                f'set model.{name}.in_channels={str(found).replace(" ", "")}'
            )


def _check_size(model: nn.Module) -> None:
    """Compare the size to which training images are cropped with the backbone's stride."""
    size = getattr(model.data_preprocessor, 'size', None)
    if size and min(size) < model.backbone.min_size:
        raise UserError(
            f'model.data_preprocessor.size is {tuple(size)}, smaller than the stride of the '
            f'backbone, {model.backbone.min_size}; use larger crops'
        )


def list_of(value: int | list[int] | tuple[int, ...]) -> list[int]:
    """Return a number or sequence of numbers as a list."""
    return [value] if isinstance(value, int) else list(value)
