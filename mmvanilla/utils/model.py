"""Fitting a model and a checkpoint to each other, before anything runs."""

import re

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner, load_state_dict
from torch import nn

from ..engine.weights import check_weights
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


def set_form(model: ConfigDict, deploy: bool) -> None:
    """Set the form of all that has one in the config of a model: the backbone, a classifier's head.

    Args:
        model: The model's config, changed in place.
        deploy: Whether it is to be the deploy form.
    """
    model.backbone.deploy = deploy
    if (model.get('head') or {}).get('type') == 'VanillaNetClsHead':
        model.head.deploy = deploy


def match_form(cfg: Config, file: str) -> None:
    """Set the form of a config's model to that in which a checkpoint is, and say so.

    Args:
        cfg: The config, changed in place.
        file: The checkpoint.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
    """
    checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
    names = checkpoint.get('state_dict', checkpoint)
    deployed = any(re.search(r'(^|\.)backbone\.stem\.', str(name)) for name in names)
    training = any(re.search(r'(^|\.)backbone\.stem1\.', str(name)) for name in names)
    backbone = cfg.model.get('backbone', {})
    if deployed != training and deployed != backbone.get('deploy', False):
        set_form(cfg.model, deployed)
        print_log(
            f'{file} is in {"deploy" if deployed else "training"} form; '
            f'the model is built with deploy={deployed}',
            logger='current',
        )


def build_model(cfg: Config, file: str) -> tuple[BaseModel, dict]:
    """Build the model of a config in the form of a checkpoint, and load that, all of it.

    Args:
        cfg: The config; its scope becomes the default one.
        file: The checkpoint.

    Returns:
        The model in eval mode on the CPU, and the checkpoint's ``meta``.

    Raises:
        CheckpointError: If the checkpoint cannot be read or is not one of this config.
        FileNotFoundError: If there is no such file.
    """
    match_form(cfg, file)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    cfg.model.backbone.init_cfg = None  # the checkpoint has all
    model = MODELS.build(cfg.model)
    checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
    check_weights(model, checkpoint, whole=True)
    load_state_dict(model, checkpoint.get('state_dict', checkpoint), strict=False, logger='silent')
    return model.eval(), checkpoint.get('meta', {})
