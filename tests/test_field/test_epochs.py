"""Each epoch shows each image once, for all samplers, batches, workers and interruptions."""

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset
from toy_training import toy_config, toy_loader

import mmvanilla  # noqa: F401 - registers the loop
from mmvanilla import UserError


@DATASETS.register_module()
class Numbers(Dataset):
    """Images that are their index, wide; if mixed, two of three are high."""

    def __init__(self, size, mixed=True):
        self.size, self.mixed = size, mixed

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return dict(inputs=torch.tensor(index))

    def get_data_info(self, index):
        return dict(width=64, height=96 if self.mixed and index % 3 else 32)

    @property
    def datasets(self):
        """Needed by mmdet's samplers of several sources."""
        return [range(self.size // 2), range(self.size - self.size // 2)]

    @property
    def cumulative_sizes(self):
        return [self.size // 2, self.size]


@MODELS.register_module()
class Witness(BaseModel):
    """A model that records its inputs."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.shown = []

    def forward(self, inputs, mode):
        self.shown.append(inputs.tolist())
        return dict(loss=self.weight.sum())


@HOOKS.register_module()
class StopAt(Hook):
    """Stop after an iteration and its checkpoint, as a crash would."""

    priority = 'LOWEST'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt


def train(
    folder,
    size,
    mixed=True,
    resume=False,
    stop_at=None,
    sampler=None,
    batch=None,
    drop_rest=False,
    **loader,
):
    """Train; return the batches of each epoch."""
    # Only mmdet has a batch sampler of its own.
    if batch is not None:
        loader['batch_sampler'] = dict(type=f'mmdet.{batch}', drop_last=drop_rest)
    if sampler is not None:
        loader['sampler'] = sampler
    hooks = [dict(type='ReseedHook'), dict(type='ResumeHook')]
    if stop_at:
        hooks.append(dict(type='StopAt', iteration=stop_at))
    cfg = toy_config(
        folder,
        'Witness',
        toy_loader(
            dict(type='Numbers', size=size, mixed=mixed),
            **dict(dict(batch_size=4, shuffle=True), **loader),
        ),
        dict(type='ResumableEpochLoop', max_epochs=3),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)),
        custom_hooks=hooks,
        randomness=dict(seed=0),
        resume=resume,
    )
    runner = Runner.from_cfg(cfg)
    begins = []
    loop = runner.train_loop
    run_epoch = loop.run_epoch
    loop.run_epoch = lambda: (begins.append(len(runner.model.shown)), run_epoch())
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop_at
    shown = runner.model.shown
    return [shown[start:end] for start, end in zip(begins, [*begins[1:], len(shown)], strict=True)]


def images(batches):
    return Counter(number for batch in batches for number in batch)


BATCHES = [None, 'AspectRatioBatchSampler']


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 13),
    batch_size=st.integers(1, 5),
    batch=st.sampled_from(BATCHES),
    shuffle=st.booleans(),
    mixed=st.booleans(),
)
def test_every_epoch_shows_every_image_once(
    tmp_path_factory, size, batch_size, batch, shuffle, mixed
):
    folder = tmp_path_factory.mktemp('run')
    sampler = dict(type='DefaultSampler', shuffle=shuffle)
    epochs = train(folder, size, mixed, batch=batch, batch_size=batch_size, sampler=sampler)
    assert [images(epoch) for epoch in epochs] == [Counter(range(size))] * 3
    assert all(len(shown) <= batch_size for epoch in epochs for shown in epoch)


@pytest.mark.parametrize('batch', BATCHES)
@pytest.mark.parametrize('workers', [0, 1, 2])
def test_the_second_epoch_does_not_depend_on_the_workers(workers, batch, tmp_path):
    options = dict(persistent_workers=True) if workers else {}
    epochs = train(tmp_path, 12, mixed=False, batch=batch, num_workers=workers, **options)
    assert [images(epoch) for epoch in epochs] == [Counter(range(12))] * 3


@pytest.mark.parametrize('size', [14, 16])
def test_a_last_batch_that_is_dropped_costs_no_other_images(size, tmp_path):
    for epoch in train(tmp_path, size, drop_last=True):
        assert [len(shown) for shown in epoch] == [4] * (size // 4)
        assert set(images(epoch).values()) == {1}


@pytest.mark.parametrize('size', [14, 16])
def test_mmdet_may_drop_more_batches_than_it_says(size, tmp_path):
    # 2 wide and 2 high images are left of 16; its sampler counts them as a batch.
    for epoch in train(tmp_path, size, batch='AspectRatioBatchSampler', drop_rest=True):
        assert [len(shown) for shown in epoch] == [4] * 3
        assert set(images(epoch).values()) == {1}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    size=st.integers(4, 13),
    stop_at=st.integers(1, 8),
    batch=st.sampled_from(BATCHES),
)
def test_a_resumed_run_shows_what_an_uninterrupted_one_would(
    tmp_path_factory, size, stop_at, batch
):
    options = dict(batch=batch, batch_size=2)
    whole = train(tmp_path_factory.mktemp('whole'), size, **options)
    folder = tmp_path_factory.mktemp('parts')
    first = train(folder, size, stop_at=stop_at, **options)
    rest = train(folder, size, resume=True, **options)
    assert list(chain(*first, *rest)) == list(chain(*whole))


def test_a_run_resumed_with_larger_batches_begins_its_epoch_anew(tmp_path):
    train(tmp_path, 12, stop_at=3, batch_size=2)
    epochs = train(tmp_path, 12, resume=True, batch_size=4)
    assert [images(epoch) for epoch in epochs] == [Counter(range(12))] * 3


@pytest.mark.parametrize('size', [11, 12])
def test_two_processes_share_an_epoch(size, tmp_path, monkeypatch):
    shown = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        shown.append(train(tmp_path / str(rank), size, batch='AspectRatioBatchSampler'))
    for epoch in range(3):
        both = images(shown[0][epoch]) + images(shown[1][epoch])
        assert set(both) == set(range(size))
        assert both.total() == 12  # one image is shown twice


@pytest.mark.parametrize(
    'sampler',
    [
        dict(type='InfiniteSampler'),
        dict(type='mmdet.MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    ],
    ids=lambda sampler: sampler['type'],
)
def test_a_sampler_without_an_end_is_refused(sampler, tmp_path):
    name = sampler['type'].removeprefix('mmdet.')
    with pytest.raises(UserError, match=f'{name} gives more.*ResumableIterLoop'):
        train(tmp_path, 8, sampler=sampler)
