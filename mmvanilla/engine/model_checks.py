"""Checks that the parts of a built model fit together, the data and the machine."""

from collections.abc import Iterator

import torch
from mmengine.runner import Runner
from torch import nn

from ..errors import UserError
from ..models import VanillaNet


def check_norms(runner: Runner) -> None:
    """Check that batch norms can work without a GPU, and log over what they average.

    Raises:
        UserError: If one synchronises.
    """
    if torch.cuda.is_available():
        return
    # torch's and mmcv's, and what mmengine puts in their place in a single process.
    synchronised = 'SyncBatchNorm', '_BatchNormXd'
    for name, module in runner.model.named_modules():
        if type(module).__name__ in synchronised:
            raise UserError(
                f'model.{name} asks for SyncBN, which needs GPUs; set type=BN in norm_cfg'
            )
    if runner.distributed:
        runner.logger.info(
            'Batch norms average over the images of their own process, since synchronised ones '
            'need GPUs; the running statistics are those of the first process'
        )


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
            size = getattr(model.data_preprocessor, 'size', None)
            if size and min(size) < model.backbone.min_size:
                raise UserError(
                    f'model.data_preprocessor.size is {tuple(size)}, smaller than the stride of '
                    f'the backbone, {model.backbone.min_size}; use larger crops'
                )


def check_classes(model: nn.Module, dataset: object, part: str) -> None:
    """Check that heads, and losses that count classes, have as many as a data set.

    Otherwise a class is learned as background or never, or training or testing ends in an index
    that is out of range.

    Args:
        model: The model.
        dataset: The data set; one that names no classes is passed over.
        part: Of what it is: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        UserError: If a number differs.
    """
    metainfo = getattr(dataset, 'metainfo', None) or {}
    # In panoptic data some heads see all classes, some only the things or the stuff.
    if metainfo.get('classes') is None or 'thing_classes' in metainfo:
        return
    expected = len(metainfo['classes'])
    for name, module in model.named_modules():
        found = getattr(module, 'num_classes', None)
        counts = isinstance(found, int) and found > 0 and _counts_classes(name, module)
        if counts and found != expected:
            name = name.removeprefix('module.')  # of a wrapper
            raise UserError(
                f'model.{name}.num_classes is {found}, but the data of {part} have {expected} '
                f'classes; set model.{name}.num_classes={expected}, or correct metainfo.classes'
            )


def _counts_classes(name: str, module: nn.Module) -> bool:
    """Tell whether the ``num_classes`` of a module is that of the data."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    return not (
        {'backbone', 'neck', 'rpn_head'} & set(name.split('.'))
        or any('RPN' in kind for kind in kinds)  # tells objects from background
        or getattr(module, 'class_agnostic', False)  # one mask for whatever class
        or {'FusedSemanticHead', 'STDCHead'} & kinds  # of COCO's stuff, of edges
    )


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what stands on a model's backbone: the neck or, without one, the heads."""
    names = ['neck'] if getattr(model, 'neck', None) else ['decode_head', 'auxiliary_head', 'head']
    for name in names:
        part = getattr(model, name, None)
        if isinstance(part, nn.ModuleList):
            yield from ((f'{name}.{i}', child) for i, child in enumerate(part))
        elif isinstance(part, nn.Sequential):  # necks one after the other
            yield f'{name}.0', part[0]
        elif part is not None:
            yield name, part


def _check_channels(model: nn.Module) -> None:
    """Compare the channels of what stands on the backbone with the backbone's."""
    given = list(model.backbone.out_channels)
    for name, part in _parts(model):
        expected = getattr(part, 'in_channels', None)
        index = getattr(part, 'in_index', len(given) - 1 if name == 'head' else None)
        if index is not None and max(_list_of(index)) >= len(given):
            raise UserError(
                f'model.{name}.in_index is {index}, but the backbone gives {len(given)} levels; '
                'set its out_indices or the in_index to match'
            )
        if isinstance(index, int):
            found = given[index]
        else:
            found = given if index is None else [given[i] for i in index]
        if expected is not None and _list_of(expected) != _list_of(found):
            raise UserError(
                f'model.{name}.in_channels is {expected}, but the backbone gives {found}; '
                f'set model.{name}.in_channels={str(found).replace(" ", "")}'
            )


def _check_strides(model: nn.Module) -> None:
    """Compare the strides of a detector's anchors with the backbone's."""
    # A neck may leave out the first levels.
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


def _list_of(value: int | list[int] | tuple[int, ...]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
