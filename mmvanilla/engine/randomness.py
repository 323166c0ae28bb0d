"""Random numbers that a resumed run draws as an uninterrupted one would.

The state of the generators is in no checkpoint. Instead it follows from the run's seed and the
number of the iteration, so nothing needs to be saved and any checkpoint will do.
"""

import random

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS, HOOKS
from mmengine.runner import Runner


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (on every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seed the generators before every epoch and iteration from the seed, the iteration, the rank.

    What the model draws (the proposals that a detector samples, dropout) and, with
    ``worker_init_fn=dict(type='seed_worker')``, what the augmentations draw then depends on the
    iteration alone, wherever the run was resumed. An iteration-based run needs at least one worker
    for that: without any, a resumed run skips through its data after the last chance to seed.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed before the workers of an epoch start."""
        self._reseed(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Seed before an iteration."""
        self._reseed(runner)

    @staticmethod
    def _reseed(runner: Runner) -> None:
        seed_all(runner.seed + runner.iter * get_world_size() + get_rank())


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seed a data-loading worker from what the main process drew when it started the worker."""
    seed_all(torch.initial_seed())
