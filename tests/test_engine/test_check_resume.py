"""What a checkpoint can make a resumed training do: nothing but go on."""

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmvanilla.engine import CheckResumeHook
from mmvanilla.errors import CheckpointError

BEST = dict(save_best='score', rule='greater')


class Model(BaseModel):
    def __init__(self):
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
        experiment_name=f'{folder.name}{epochs}{len(options)}{id(options)}',
        log_level='ERROR',
        **options,
    )


@pytest.fixture
def saved(tmp_path):
    """Train an epoch and return its work dir and what it saved."""
    work = tmp_path / 'work'
    runner(work, 1).train()
    return work, torch.load(work / 'epoch_1.pth', weights_only=False)


def resume(work, checkpoint, hook=True):
    torch.save(checkpoint, work / 'changed.pth')
    resumed = runner(work, 2, resume=True, load_from=str(work / 'changed.pth'))
    if hook:
        resumed.register_hook(CheckResumeHook())
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
    # Without the hook mmengine deletes them, which is why it is there.
    assert (thesis / 'chapters' / 'one.txt').exists() == hook


def test_the_own_best_checkpoint_is_replaced(saved):
    work, checkpoint = saved
    assert (work / 'best_score_epoch_1.pth').exists()
    checkpoint['message_hub']['runtime_info']['best_score'] = -1.0
    resumed = resume(work, checkpoint)
    assert resumed.epoch == 2
    assert [path.name for path in work.glob('best_*')] == ['best_score_epoch_2.pth']


def without(name):
    return lambda c: c.pop(name)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (without('meta'), 'cannot be resumed from: its meta is missing, expected dict'),
        (without('message_hub'), 'its message_hub is missing'),
        (lambda c: c['meta'].pop('epoch'), 'its epoch is missing, expected int'),
        (lambda c: c['meta'].update(iter='9'), 'its iter is a str, expected int'),
        (lambda c: c['meta'].update(epoch=-1), 'says epoch -1, expected 0 or more'),
        (lambda c: c['meta'].update(seed='x'), 'its seed is a str, expected int'),
        (lambda c: c['message_hub'].pop('resumed_keys'), 'its resumed_keys is missing'),
        (lambda c: c['message_hub'].update(log_scalars=[1]), 'its log_scalars is a list'),
        (lambda c: c.update(optimizer=dict(state=5)), 'does not fit this training'),
        (lambda c: c.update(optimizer='fast'), 'does not fit this training'),
        (lambda c: c['optimizer'].update(param_groups=[]), 'does not fit this training'),
        (lambda c: c.update(param_schedulers=[7]), 'does not fit this training'),
    ],
)
def test_what_cannot_be_resumed(change, sentence, saved):
    work, checkpoint = saved
    change(checkpoint)
    before = sorted(work.glob('*.pth'))
    with pytest.raises(CheckpointError, match=sentence) as error:
        resume(work, checkpoint)
    assert '\n' not in str(error.value)
    assert sorted(work.glob('*.pth')) == sorted([*before, work / 'changed.pth'])
