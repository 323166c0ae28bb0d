"""Checks of a training before anything runs."""

from collections.abc import Iterable

import torch
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..data_checks import check_annotations, check_paths, use_checked_loading
from ..errors import UserError
from ..models import VanillaNet
from .hooks.check_resume import CheckResumeHook


def preflight(cfg: Config, parts: Iterable[str] = ('train', 'val')) -> None:
    """Check what a config tells of a training, before anything is built.

    That is: files and folders that are missing, annotations at which training would stop or from
    which it would learn something wrong, and models that are sharded.

    Args:
        cfg: The config of mmdet, mmseg or mmpretrain.
        parts: The data loaders to look at, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: At the first mistake.
    """
    parts = tuple(parts)
    check_paths(cfg, parts)
    check_annotations(cfg, parts)
    check_strategy(cfg)


@HOOKS.register_module()
class PreflightHook(CheckResumeHook):
    """Check a run when it is built, before it loads a checkpoint and makes its first step.

    The model's parts must fit together, and synchronised batch norms need a GPU. Images and label
    maps are checked as they are loaded. A training must also pass :func:`preflight`, and trusts
    what it resumes no further than :class:`CheckResumeHook` does.

    mmengine builds the model, the data sets of training and validation and the optimizer before it
    calls a hook for the first time. A mistake that keeps these from being built, such as a missing
    annotation file, a file that is no JSON or a misspelt type, is therefore told in mmengine's
    words. ``mmvanilla.preflight(cfg)`` before the runner is made, as in tools/train.py, is in time.

    Args:
        config: Whether to make the checks of :func:`preflight`; False where it was called.

    Raises:
        UserError: Before the run, at the first mistake.
    """

    def __init__(self, config: bool = True) -> None:
        self.config = config

    def before_run(self, runner: Runner) -> None:
        """Check."""
        if self is not [hook for hook in runner.hooks if isinstance(hook, PreflightHook)][-1]:
            return  # one that knows whether preflight was called was added to that of the config
        check_model(runner)
        # The public properties would build the loops that this run does without.
        loops = runner._train_loop, runner._val_loop, runner._test_loop
        if isinstance(loops[0], BaseLoop):
            check_norms(runner)
            super().before_run(runner)
            if self.config:
                preflight(runner.cfg)
        for loop in loops:
            if isinstance(loop, BaseLoop) and use_checked_loading(loop.dataloader):
                _restart_workers(runner, loop)


def _restart_workers(runner: Runner, loop: BaseLoop) -> None:
    """Start the workers of an iteration-based training anew, with the data set as it is now."""
    batches, cfg = getattr(loop, 'dataloader_iterator', None), runner.cfg.get('train_dataloader')
    if batches is None or not loop.dataloader.num_workers or not isinstance(cfg, dict):
        return
    cfg = dict(cfg, dataset=loop.dataloader.dataset)  # with a sampler that begins anew
    differ = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
    with torch.random.fork_rng(devices=[]):  # the model draws what it would have drawn
        loop.dataloader = runner.build_dataloader(cfg, runner.seed, differ)
        loop.dataloader_iterator = type(batches)(loop.dataloader)


def check_loading(runner: Runner) -> None:
    """Let the data loaders that a runner builds from now on name the files they stumble over."""
    build = runner.build_dataloader

    def build_checked(*args: object, **kwargs: object) -> object:
        loader = build(*args, **kwargs)
        use_checked_loading(loader)
        return loader

    runner.build_dataloader = build_checked


def check_strategy(cfg: Config) -> None:
    """Check that a config shards no model.

    Raises:
        UserError: If it does.
    """
    types = [(cfg.get(key) or {}).get('type', '') for key in ('strategy', 'model_wrapper_cfg')]
    if any('FSDP' in str(name) or 'FullySharded' in str(name) for name in types):
        raise UserError(
            'the config shards the model (FSDP), which is not supported: deep training, fusion and '
            'checkpoints need all weights in every process; remove strategy, runner_type and '
            'model_wrapper_cfg'
        )


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


def _check_channels(model: nn.Module) -> None:
    """Compare the channels of what stands on the backbone with the backbone's."""
    given = list(model.backbone.out_channels)
    # With a neck, the heads stand on that.
    heads = ['decode_head', 'auxiliary_head', 'head']
    for name in ['neck'] if getattr(model, 'neck', None) else heads:
        part = getattr(model, name, None)
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
