"""Random numbers that a resumed run draws as an uninterrupted one would.

The state of the generators is in no checkpoint. Instead it follows from the run's seed and the
number of the iteration, so nothing needs to be saved and any checkpoint will do.
"""

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS, HOOKS
from mmengine.runner import Runner

from ..loops import BATCHES_DONE
from .stop_on_signal import leave_signals_to_parent

DATA = 2**31  # keeps what loading a batch draws apart from what training on it draws


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (on every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seed the generators for every epoch, batch and iteration from the seed, its number, the rank.

    What the model draws (the proposals that a detector samples, dropout) and what the augmentations
    draw then depends on the iteration alone, wherever the run was resumed. Where workers load the
    data that needs ``worker_init_fn=dict(type='seed_worker')`` and as many workers as before.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Seed before each batch of an iteration-based run, also of those that are passed over."""
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            before = functools.partial(self.before_batch, runner)
            loop.dataloader_iterator = _Reseeded(loop.dataloader_iterator, before)

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed before the workers of an epoch start, as at its first batch."""
        self._reseed(runner, runner.iter - runner.message_hub.get_info(BATCHES_DONE, 0))

    def before_batch(self, runner: Runner, iteration: int) -> None:
        """Seed before a batch is loaded; ``ResumableEpochLoop`` calls this."""
        self._reseed(runner, iteration, DATA)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Seed before an iteration."""
        self._reseed(runner, runner.iter)

    @staticmethod
    def _reseed(runner: Runner, iteration: int, stream: int = 0) -> None:
        seed_all(runner.seed + stream + iteration * get_world_size() + get_rank())


class _Reseeded:
    """Batches, with a call before each is loaded."""

    def __init__(self, batches: Iterator, before: Callable[[int], None]) -> None:
        self.batches, self.before, self.iteration = batches, before, 0

    def __next__(self) -> Any:
        self.before(self.iteration)
        self.iteration += 1
        return next(self.batches)

    def skip_iter(self, number: int) -> None:
        """Load what was trained on and drop it; OneDL's own way would leave out its draws."""
        for _ in range(number):
            next(self)


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seed a data-loading worker from what the main process drew when it started the worker."""
    seed_all(torch.initial_seed())
    leave_signals_to_parent()
