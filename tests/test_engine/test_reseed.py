"""A resumed run draws the random numbers of an uninterrupted one."""

import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import DistSamplerSeedHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset
from toy_training import toy_config, toy_loader

from mmvanilla.engine import build_runner
from mmvanilla.engine.latest import latest_checkpoint
from mmvanilla.engine.loaders import Draws
from mmvanilla.engine.run import PreparedRunner


@DATASETS.register_module()
class Noise(Dataset):
    """Random numbers from all three generators, as an augmentation draws them."""

    def __len__(self):
        return 6

    def get_data_info(self, index):
        return dict(width=2, height=1)

    def __getitem__(self, index):
        draws = [random.random(), np.random.rand(), torch.rand(()).item()]
        return torch.tensor([index, *draws])


@DATASETS.register_module()
class CountedNoise(Noise):
    """Record the loaded items in this process."""

    loaded = []

    def __getitem__(self, index):
        self.loaded.append(index)
        return super().__getitem__(index)


@MODELS.register_module()
class Recorder(BaseModel):
    """A model that records its input and a random number of its own."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, inputs, mode):
        self.seen.append([*inputs.flatten().tolist(), torch.rand(()).item()])
        return dict(loss=self.weight.sum())


@HOOKS.register_module()
class Signal(Hook):
    """Send a signal to this process before an iteration."""

    def __init__(self, number, iteration):
        self.number, self.iteration = number, iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def train(
    work_dir,
    max_epochs,
    num_workers,
    resume=False,
    by_epoch=True,
    hooks=(),
    seed=7,
    build=Runner.from_cfg,
    persistent_workers=False,
    dataset='Noise',
):
    """Train; return the input and the random number of each iteration."""
    loop = dict(type='ResumableEpochLoop', max_epochs=max_epochs)
    if not by_epoch:
        loop = dict(type='ResumableIterLoop', max_iters=3 * max_epochs)
    loader = toy_loader(
        dataset,
        infinite=not by_epoch,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=persistent_workers,
        worker_init_fn=dict(type='seed_worker'),
    )
    checkpoint = dict(interval=1) if by_epoch else dict(interval=3, by_epoch=False)
    cfg = toy_config(
        work_dir,
        'Recorder',
        loader,
        loop,
        custom_hooks=[dict(type='ReseedHook'), *hooks],
        default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', **checkpoint)),
        randomness=dict(seed=seed),
        load_from=latest_checkpoint(str(work_dir)) if resume else None,
        resume=resume,
    )
    runner = build(cfg)
    runner.model.train_step = lambda data, optim_wrapper: runner.model(data, 'loss')
    try:
        runner.train()
    except SystemExit as stop:
        return runner.model.seen, stop.code
    return runner.model.seen


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_resumed_run_repeats_every_draw(tmp_path, num_workers, by_epoch):
    whole = train(tmp_path / 'whole', 3, num_workers, by_epoch=by_epoch)
    first = train(tmp_path / 'parts', 1, num_workers, by_epoch=by_epoch)
    rest = train(tmp_path / 'parts', 3, num_workers, resume=True, by_epoch=by_epoch)
    assert len(whole) == 9
    assert len(first) == 3
    assert first + rest == whole


@pytest.mark.parametrize(
    ('num_workers', 'by_epoch', 'iteration', 'number'),
    [
        (0, True, 4, signal.SIGTERM),
        (0, False, 4, signal.SIGTERM),
        (2, True, 4, signal.SIGINT),
        (2, False, 4, signal.SIGTERM),
        (0, True, 5, signal.SIGTERM),  # the last of an epoch
    ],
)
def test_stopped_by_a_signal(tmp_path, num_workers, by_epoch, iteration, number):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    whole = train(tmp_path / 'whole', 3, num_workers, by_epoch=by_epoch)
    stop = [
        dict(type='StopOnSignalHook'),
        dict(type='Signal', number=int(number), iteration=iteration),
    ]
    first, code = train(tmp_path / 'parts', 3, num_workers, by_epoch=by_epoch, hooks=stop)
    assert code == 128 + number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert first == whole[: iteration + 1]
    assert latest_checkpoint(str(tmp_path / 'parts')).endswith('parts/interrupted.pth')
    rest = train(tmp_path / 'parts', 3, num_workers, resume=True, by_epoch=by_epoch)
    assert first + rest == whole
    assert not (tmp_path / 'parts/interrupted.pth').exists()  # a regular one took its place


def test_a_signal_in_the_last_iteration_changes_nothing(tmp_path):
    hooks = [
        dict(type='StopOnSignalHook'),
        dict(type='Signal', number=int(signal.SIGTERM), iteration=8),
    ]
    assert len(train(tmp_path, 3, 0, hooks=hooks)) == 9
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_3.pth')


def test_epochs_differ(tmp_path):
    seen = train(tmp_path / 'whole', 3, num_workers=1)
    draws = {value for row in seen for value in row if value % 1}
    assert len(draws) == 9 * (2 * 3 + 1)  # nothing is drawn twice


def draws_of(seen):
    return {value for row in seen for value in row if value % 1}


def test_runs_with_neighbouring_seeds_share_no_draw(tmp_path):
    first, second = (
        draws_of(train(tmp_path / str(seed), 3, num_workers=0, seed=seed)) for seed in (0, 1)
    )
    assert len(first) == len(second) == 9 * 7
    assert not first & second


@pytest.mark.parametrize('by_epoch', [True, False])
def test_draws_do_not_depend_on_the_workers(tmp_path, by_epoch):
    options = dict(by_epoch=by_epoch)
    plain = train(tmp_path / 'a', 3, 0, **options)
    assert train(tmp_path / 'b', 3, 2, **options) == plain
    assert train(tmp_path / 'c', 3, 2, persistent_workers=True, **options) == plain


@pytest.mark.parametrize('build', [Runner.from_cfg, build_runner])
def test_resuming_with_persistent_workers_repeats_every_draw(tmp_path, build):
    options = dict(persistent_workers=True, build=build)
    whole = train(tmp_path / 'whole', 3, 2, **options)
    first = train(tmp_path / 'parts', 1, 2, **options)
    rest = train(tmp_path / 'parts', 3, 1, resume=True, **options)
    assert first + rest == whole
    assert len(draws_of(whole)) == 9 * 7


def test_a_run_without_a_seed_resumes_with_the_seed_that_it_drew(tmp_path):
    stop = [
        dict(type='StopOnSignalHook'),
        dict(type='Signal', number=int(signal.SIGTERM), iteration=3),
    ]
    options = dict(seed=None, build=build_runner)
    first, _ = train(tmp_path, 3, 0, hooks=stop, **options)
    rest = train(tmp_path, 3, 0, resume=True, **options)
    file = latest_checkpoint(str(tmp_path))
    seed = torch.load(file, weights_only=True)['meta']['seed']
    assert first + rest == train(tmp_path / 'whole', 3, 0, seed=seed, build=build_runner)


def test_resuming_within_an_epoch_loads_no_batch_again(tmp_path):
    stop = [
        dict(type='StopOnSignalHook'),
        dict(type='Signal', number=int(signal.SIGTERM), iteration=4),
    ]
    train(tmp_path, 2, 0, hooks=stop)
    CountedNoise.loaded.clear()
    train(tmp_path, 2, 0, resume=True, dataset='CountedNoise')
    assert len(CountedNoise.loaded) == 2  # the last batch of the last epoch


def test_pairs_of_a_video_and_a_frame_are_seeded():
    """Mmdet's tracking samplers give tuples, and its data sets ask for them."""
    first, second, again = (draw for (draw,) in Draws([[(0, 3)], [(1, 2)], [(0, 3)]]))
    assert [draw.index for draw in (first, second, again)] == [(0, 3), (1, 2), (0, 3)]
    assert len({first.words, second.words, again.words}) == 3
    assert list(Draws(['a', (0, 'b')])) == ['a', (0, 'b')]


@pytest.mark.parametrize('batches', [None, dict(type='mmdet.AspectRatioBatchSampler')])
def test_each_epoch_has_an_order_of_its_own(tmp_path, batches):
    orders = []
    loader = dict(batch_size=2, dataset=dict(type='Noise'), sampler=dict(type='DefaultSampler'))
    loader = PreparedRunner.build_dataloader(loader | dict(batch_sampler=batches), seed=0)
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=loader))
    for runner.epoch in range(3):
        DistSamplerSeedHook().before_train_epoch(runner)
        orders.append(tuple(draw.index for batch in loader.batch_sampler for draw in batch))
    assert len(set(orders)) == 3
