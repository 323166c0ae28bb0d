"""Checks of a configured training before anything runs."""

from mmengine.runner import Runner
from torch import nn

from ..errors import UserError
from ..models import VanillaNet


def check_model(runner: Runner) -> None:
    """Check that the parts of a runner's model fit together.

    Raises:
        UserError: If a neck's or head's channels or strides are not the backbone's, or training
            images are set to be smaller than the backbone's stride.
    """
    for model in runner.model.modules():
        if isinstance(getattr(model, 'backbone', None), VanillaNet):
            _check_channels(model)
            _check_strides(model)
            _check_size(model)


def _check_channels(model: nn.Module) -> None:
    """Compare the channels of what stands on the backbone with the backbone's."""
    given = list(model.backbone.out_channels)
    # With a neck, the heads stand on that.
    heads = ['decode_head', 'auxiliary_head', 'head']
    names = ['neck'] if getattr(model, 'neck', None) else heads
    for name in names:
        part = getattr(model, name, None)
        expected = getattr(part, 'in_channels', None)
        index = getattr(part, 'in_index', len(given) - 1 if name == 'head' else None)
        if index is not None and max(list_of(index)) >= len(given):
            raise UserError(
                f'model.{name}.in_index is {index}, but the backbone gives {len(given)} levels; '
                'set its out_indices or the in_index to match'
            )
        if isinstance(index, int):
            found = given[index]
        else:
            found = given if index is None else [given[i] for i in index]
        if expected is not None and list_of(expected) != list_of(found):
            raise UserError(
                f'model.{name}.in_channels is {expected}, but the backbone gives {found}; '
                f'set model.{name}.in_channels={str(found).replace(" ", "")}'
            )


def _check_strides(model: nn.Module) -> None:
    """Compare the strides of a detector's anchors with the backbone's."""
    # A pyramid may leave out the first levels.
    start = getattr(getattr(model, 'neck', None), 'start_level', 0)
    strides = list(model.backbone.out_strides[start:])
    for name in ('rpn_head', 'bbox_head'):
        generator = getattr(getattr(model, name, None), 'prior_generator', None)
        expected = [stride[0] for stride in generator.strides] if generator else strides
        if expected[: len(strides)] != strides:
            raise UserError(
                f'model.{name}.anchor_generator.strides is {expected}, but the backbone gives '
                f'{strides}; set these and the featmap_strides of the RoI extractors to match'
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
