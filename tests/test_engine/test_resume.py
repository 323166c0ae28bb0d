"""Resumed checkpoints: no deleted files, one sentence for a state that does not fit."""

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset
from toy_training import RUNS, toy_config, toy_loader

from mmvanilla import UserError
from mmvanilla.engine import ResumeHook, build_runner
from mmvanilla.errors import CheckpointError

BEST = dict(save_best='score', rule='greater')


@MODELS.register_module(name='Line')
class Model(BaseModel):
    def __init__(self, data_preprocessor=None):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(inputs).square().mean()) if mode == 'loss' else [None]


class Score(BaseMetric):
    """A score that rises, so that each validation finds a better checkpoint."""

    score = 0

    def process(self, data_batch, data_samples):
        self.results.append(None)

    def compute_metrics(self, results):
        self.score += 1
        return dict(score=self.score)


def runner(folder, epochs, **options):
    batches = DataLoader([dict(inputs=torch.rand(2)) for _ in range(4)], 2)
    return Runner(
        Model(),
        str(folder),
        train_dataloader=batches,
        val_dataloader=batches,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator(Score()),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='MultiStepLR', milestones=[1]),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', **BEST)),
        experiment_name=f'resume{next(RUNS)}',
        log_level='ERROR',
        **options,
    )


@pytest.fixture
def saved(tmp_path):
    """Train an epoch; return the work dir and the checkpoint."""
    work = tmp_path / 'work'
    runner(work, 1).train()
    return work, torch.load(work / 'epoch_1.pth', weights_only=False)


def resume(work, checkpoint, hook=True):
    torch.save(checkpoint, work / 'changed.pth')
    resumed = runner(work, 2, resume=True, load_from=str(work / 'changed.pth'))
    if hook:
        resumed.register_hook(ResumeHook())
    resumed.train()
    return resumed


@pytest.mark.parametrize('hook', [False, True])
@pytest.mark.parametrize('kind', ['file', 'folder', 'link'])
def test_files_elsewhere_stay(kind, hook, saved, tmp_path):
    work, checkpoint = saved
    thesis = tmp_path / 'thesis'
    (thesis / 'chapters').mkdir(parents=True)
    (thesis / 'chapters' / 'one.txt').write_text('words')
    target = thesis / 'chapters' / 'one.txt' if kind == 'file' else thesis
    if kind == 'link':
        (work / 'link').symlink_to(thesis)
        target = work / 'link' / 'chapters' / 'one.txt'
    checkpoint['message_hub']['runtime_info']['best_ckpt'] = str(target)
    checkpoint['message_hub']['runtime_info']['best_score'] = -1.0
    resume(work, checkpoint, hook)
    # mmengine deletes the file without the hook.
    assert (thesis / 'chapters' / 'one.txt').exists() == hook


def test_the_own_best_checkpoint_is_replaced(saved):
    work, checkpoint = saved
    assert (work / 'best_score_epoch_1.pth').exists()
    checkpoint['message_hub']['runtime_info']['best_score'] = -1.0
    resumed = resume(work, checkpoint)
    assert resumed.epoch == 2
    assert [path.name for path in work.glob('best_*')] == ['best_score_epoch_2.pth']


@DATASETS.register_module()
class Points(Dataset):
    """Eight points of named classes."""

    def __init__(self, classes=('a', 'b')):
        self.metainfo = dict(classes=tuple(classes))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index / 8, 1.0]))


@HOOKS.register_module()
class Rates(Hook):
    """Notes the learning rate of each iteration."""

    seen: list = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(runner.optim_wrapper.get_lr()['lr'][0])


COSINE = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, begin=0)
WARM = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)
ADAMW = dict(type='AdamW', lr=0.1, weight_decay=0.05)


def train(work, epochs, schedule, optimizer=ADAMW, resume=None, classes=('a', 'b'), **options):
    """Train by our own way into a run; return the learning rate of each iteration."""
    Rates.seen = []
    cfg = toy_config(
        work,
        'Line',
        toy_loader(dict(type='Points', classes=classes), shuffle=True),
        dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(optimizer)),
        param_scheduler=schedule,
        custom_hooks=[dict(type='Rates')],
        load_from=resume,
        resume=resume is not None,
    )
    build_runner(cfg, **options).train()
    return Rates.seen


def cosine(epochs):
    return [WARM, dict(COSINE, T_max=epochs, end=epochs)]


@pytest.mark.parametrize(
    'changed',
    [
        dict(epochs=4, schedule=cosine(4)),
        dict(epochs=4, schedule=cosine(4), optimizer=dict(ADAMW, lr=0.02)),
        dict(epochs=4, schedule=[dict(type='MultiStepLR', milestones=[1, 3], by_epoch=True)]),
    ],
    ids=['longer', 'another rate', 'milestones'],
)
def test_a_changed_schedule_holds_from_the_resumed_iteration_on(changed, tmp_path):
    train(tmp_path / 'parts', 2, cosine(2))
    rest = train(tmp_path / 'parts', resume=str(tmp_path / 'parts/epoch_2.pth'), **changed)
    whole = train(tmp_path / 'whole', **changed)
    assert rest == pytest.approx(whole[8:], rel=1e-9)
    assert len(rest) == 8


def test_settings_of_the_optimizer_are_those_of_the_config(tmp_path):
    train(tmp_path, 1, cosine(2))
    other = dict(ADAMW, weight_decay=0.5)
    train(tmp_path, 2, cosine(2), optimizer=other, resume=str(tmp_path / 'epoch_1.pth'))
    state = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['optimizer']
    assert state['param_groups'][0]['weight_decay'] == 0.5
    assert state['state'][0]['step'] == 8  # the moments went on


@pytest.mark.parametrize('kind', ['Adam', 'SGD'])
def test_another_optimizer_cannot_go_on(kind, tmp_path):
    train(tmp_path, 1, cosine(2))
    with pytest.raises(UserError, match='load_from') as error:
        train(
            tmp_path,
            2,
            cosine(2),
            dict(type=kind, lr=0.1),
            resume=str(tmp_path / 'epoch_1.pth'),
        )
    assert 'AdamW' in str(error.value)
    assert kind in str(error.value)


def test_other_classes_cannot_go_on(tmp_path):
    train(tmp_path, 1, cosine(2))
    file = str(tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match="'b'.*'c'.*load_from"):
        train(tmp_path, 2, cosine(2), resume=file, classes=('a', 'c'))
    assert len(train(tmp_path, 2, cosine(2), resume=file, classes=('a', 'c'), warn_only=True)) == 4


@pytest.mark.parametrize(
    'change',
    [
        lambda c: c.pop('meta'),
        lambda c: c.pop('message_hub'),
        lambda c: c['meta'].pop('epoch'),
        lambda c: c['meta'].update(iter='9'),
        lambda c: c['meta'].update(seed='x'),
        lambda c: c['message_hub'].pop('resumed_keys'),
        lambda c: c['message_hub'].update(log_scalars=[1]),
        lambda c: c.update(optimizer=dict(state=5)),
        lambda c: c.update(optimizer='fast'),
        lambda c: c['optimizer'].update(param_groups=[]),
    ],
)
def test_a_state_that_does_not_fit_is_one_sentence(change, tmp_path):
    train(tmp_path, 1, cosine(2))
    file = tmp_path / 'epoch_1.pth'
    checkpoint = torch.load(file, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, file)
    before = sorted(tmp_path.glob('*.pth'))
    with pytest.raises(CheckpointError, match='does not fit this training') as error:
        train(tmp_path, 2, cosine(2), resume=str(file))
    assert '\n' not in str(error.value)
    assert sorted(tmp_path.glob('*.pth')) == before
