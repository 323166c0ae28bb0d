"""Data loaders with a seed for each sample, so that resumed runs repeat its draws."""

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.registry import FUNCTIONS
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader, IterableDataset

from ..checks.items import Draw, Items
from ..renamed import deprecate
from .signals import StartWorker, held_signals


class Draws:
    """Yield the indices of a sampler or batch sampler as ``Draw``.

    All other attributes are those of the sampler; mmengine calls ``set_epoch`` of a sampler, or of
    ``batch_sampler.sampler``.

    Attributes:
        source: The sampler.
    """

    def __init__(self, source: Iterable) -> None:
        self.source, self._skip = source, 0
        self._epoch, self._drawn = -1, Counter[tuple]()

    def __iter__(self) -> Iterator:
        skip, self._skip = self._skip, 0
        epoch = MessageHub.get_current_instance().get_info('epoch', 0)
        if epoch != self._epoch:  # a loop that counts iterations has one epoch of many passes
            self._epoch, self._drawn = epoch, Counter()
        for i, element in enumerate(self.source):
            drawn = self._number(element)
            if i >= skip:
                yield drawn

    def skip(self, number: int) -> None:
        """Leave out elements in the next iteration; newer versions of mmengine call this, too."""
        self._skip = number

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == 'source':  # not yet set while this object is unpickled
            raise AttributeError(name)
        return getattr(self.source, name)

    def _number(self, element: Any) -> Any:
        if isinstance(element, list):
            return [self._number(index) for index in element]
        numbers = element if isinstance(element, tuple) else (element,)  # of a video and a frame
        if not all(isinstance(number, int | np.integer) for number in numbers):
            return element
        words = tuple(map(int, numbers))
        self._drawn[words] += 1
        seed = (self._epoch, get_rank(), *words, self._drawn[words] - 1)
        return Draw(words if isinstance(element, tuple) else words[0], seed)


def prepare_loader(loader: DataLoader, seed: int | None) -> DataLoader:
    """Return a loader that seeds each sample and names files that fail.

    Args:
        loader: The loader that the library built.
        seed: The run's seed.
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset | Items) or loader.batch_sampler is None:
        return loader
    names = inspect.signature(DataLoader).parameters
    options: dict[str, Any] = {name: getattr(loader, name, None) for name in names}
    options |= dict(dataset=Items(dataset, seed), batch_sampler=None, sampler=Draws(loader.sampler))
    if loader.batch_size is None:
        batches = dict(batch_sampler=Draws(loader.batch_sampler), sampler=None, batch_size=1)
        options |= dict(batches, drop_last=False)
    options['worker_init_fn'] = StartWorker(loader.worker_init_fn)
    return DataLoader(**options)


def prepare_loop(runner: Runner, loop: BaseLoop) -> None:
    """Prepare the loader of a loop that another program built."""
    loader, seed = loop.dataloader, runner.seed
    batches, cfg = getattr(loop, 'dataloader_iterator', None), runner.cfg.get('train_dataloader')
    if isinstance(loader.dataset, Items):
        return
    if batches is not None and isinstance(cfg, dict):
        # Its workers run already, and an endless sampler gives each index once.
        differ = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
        loader = runner.build_dataloader(dict(cfg, dataset=loader.dataset), seed, differ)
    loop.dataloader = prepare_loader(loader, seed)
    if batches is not None:
        loop.dataloader_iterator = type(batches)(loop.dataloader)


def pass_over(loader: DataLoader, batches: int) -> int:
    """Let a loader skip its first batches.

    Returns:
        How many of these batches it gives nevertheless: all if it is not a prepared loader.
    """
    for sampler, size in ((loader.sampler, loader.batch_size), (loader.batch_sampler, 1)):
        if isinstance(sampler, Draws):
            sampler.skip(batches * (size or 1))
            return 0
    return batches


def start(loader: DataLoader) -> Iterator:
    """Iterate a loader; signals wait until its workers have started."""
    # Workers of other loaders would never unblock SIGTERM.
    prepared = isinstance(loader.worker_init_fn, StartWorker)
    with held_signals() if prepared else nullcontext():
        return iter(loader)


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Do nothing; configs of version 0.1 name it as ``worker_init_fn``."""
    deprecate('seed_worker', 'leave worker_init_fn out')
