"""A resumed run draws the random numbers of an uninterrupted one."""

import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset


@DATASETS.register_module()
class Noise(Dataset):
    """Items that an augmentation drew from all three generators."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        draws = [random.random(), np.random.rand(), torch.rand(()).item()]
        return torch.tensor([index, *draws])


@MODELS.register_module()
class Recorder(BaseModel):
    """A model that notes its input and what it draws itself."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, inputs, mode):
        self.seen.append([*inputs.flatten().tolist(), torch.rand(()).item()])
        return dict(loss=self.weight.sum())


def train(work_dir, max_epochs, num_workers, resume=False, by_epoch=True):
    loop = dict(by_epoch=True, max_epochs=max_epochs)
    if not by_epoch:
        loop = dict(by_epoch=False, max_iters=3 * max_epochs)
    runner = Runner.from_cfg(
        Config(
            dict(
                model=dict(type='Recorder'),
                work_dir=str(work_dir),
                train_dataloader=dict(
                    batch_size=2,
                    num_workers=num_workers,
                    worker_init_fn=dict(type='seed_worker'),
                    sampler=dict(
                        type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True
                    ),
                    dataset=dict(type='Noise'),
                    collate_fn=dict(type='default_collate'),
                ),
                train_cfg=loop,
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
                custom_hooks=[dict(type='ReseedHook')],
                default_hooks=dict(
                    checkpoint=dict(
                        type='CheckpointHook', interval=1 if by_epoch else 3, by_epoch=by_epoch
                    )
                ),
                randomness=dict(seed=7),
                resume=resume,
                experiment_name=f'{work_dir.name}{max_epochs}{resume}{num_workers}{by_epoch}',
                default_scope='mmengine',
                log_level='ERROR',
            )
        )
    )
    runner.model.train_step = lambda data, optim_wrapper: runner.model(data, 'loss')
    runner.train()
    return runner.model.seen


@pytest.mark.parametrize(('num_workers', 'by_epoch'), [(0, True), (1, True), (1, False)])
def test_resumed_run_repeats_every_draw(tmp_path, num_workers, by_epoch):
    whole = train(tmp_path / 'whole', 3, num_workers, by_epoch=by_epoch)
    first = train(tmp_path / 'parts', 1, num_workers, by_epoch=by_epoch)
    rest = train(tmp_path / 'parts', 3, num_workers, resume=True, by_epoch=by_epoch)
    assert len(whole) == 9
    assert len(first) == 3
    assert first + rest == whole


def test_epochs_differ(tmp_path):
    seen = train(tmp_path / 'whole', 3, num_workers=1)
    draws = {value for row in seen for value in row if value % 1}
    assert len(draws) == 9 * (2 * 3 + 1)  # nothing is drawn twice
