"""Deep training: act_learn rises as planned, on the net and its copies, also after a resume."""

import json

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from toy_training import toy_config, toy_loader

from mmvanilla import VanillaNet


@MODELS.register_module()
class TinyModel(BaseModel):
    """A VanillaNet with a loss; notes at what act_learn it was called."""

    def __init__(self, deploy=False):
        super().__init__()
        self.backbone = VanillaNet(dict(dims=[4, 4], strides=[2]), out_indices=[1], deploy=deploy)
        self.seen = []

    def forward(self, inputs, mode):
        self.seen.append(round(self.backbone.act_learn, 6))
        (features,) = self.backbone(inputs)
        return dict(loss=features.square().mean()) if mode == 'loss' else [features]

    def train_step(self, data, optim_wrapper):
        optim_wrapper.update_params(self(**data, mode='loss')['loss'])
        return dict(loss=torch.zeros(()))


@DATASETS.register_module()
def images():
    return [dict(inputs=torch.full((3, 16, 16), float(i))) for i in range(6)]


def build(work_dir, hook, max_epochs=6, resume=False, by_epoch=True, ema=False, deploy=False):
    loop = dict(by_epoch=True, max_epochs=max_epochs)
    if not by_epoch:
        loop = dict(by_epoch=False, max_iters=3 * max_epochs)
    ema_hook = [dict(type='EMAHook')] if ema else []
    interval = dict(interval=1) if by_epoch else dict(interval=3, by_epoch=False)
    cfg = toy_config(
        work_dir,
        dict(type='TinyModel', deploy=deploy),
        toy_loader('images', infinite=not by_epoch, shuffle=True),
        loop,
        custom_hooks=[dict(type='DeepTrainingHook', **hook), *ema_hook],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', **interval),
        ),
        resume=resume,
        randomness=dict(seed=0),
    )
    return Runner.from_cfg(cfg)


def train(*args, **kwargs):
    runner = build(*args, **kwargs)
    runner.train()
    return runner


def test_by_epoch(tmp_path):
    runner = train(tmp_path, dict(end=4))
    by_epoch = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert runner.model.seen == [value for value in by_epoch for _ in range(3)]
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row['act_learn'] for row in rows] == runner.model.seen


def test_by_iteration_with_a_late_start(tmp_path):
    runner = train(tmp_path, dict(begin=2, end=7, by_epoch=False), max_epochs=3, by_epoch=False)
    assert runner.model.seen == [0.0, 0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]


class Interrupt(Hook):
    priority = 'VERY_LOW'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 10:
            raise InterruptedError


@pytest.mark.parametrize('by_epoch', [True, False])
def test_resume_goes_on_exactly(tmp_path, by_epoch):
    hook = dict(end=4) if by_epoch else dict(end=14, by_epoch=False)
    whole = train(tmp_path / 'whole', hook, by_epoch=by_epoch)
    first = build(tmp_path / 'parts', hook, by_epoch=by_epoch)
    first.register_hook(Interrupt())
    with pytest.raises(InterruptedError):
        first.train()
    second = train(tmp_path / 'parts', hook, by_epoch=by_epoch, resume=True)
    assert second.iter == whole.iter == 18
    assert first.model.seen[:9] + second.model.seen == whole.model.seen
    assert torch.equal(second.model.backbone.stem1[0].weight, whole.model.backbone.stem1[0].weight)


def test_the_averaged_copy_follows(tmp_path):
    runner = build(tmp_path, dict(end=4), ema=True)
    runner.register_hook(Interrupt())
    with pytest.raises(InterruptedError):
        runner.train()
    (ema,) = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert ema.module.backbone is not runner.model.backbone
    assert ema.module.backbone.act_learn == runner.model.backbone.act_learn == 0.75


def test_a_distributed_model_and_its_averaged_copy(tmp_path):
    dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1
    )
    try:
        runner = build(tmp_path, dict(end=4), ema=True)
        runner.model = MMDistributedDataParallel(runner.model)
        runner.register_hook(Interrupt())
        with pytest.raises(InterruptedError):
            runner.train()
    finally:
        dist.destroy_process_group()
    (ema,) = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert runner.model.module.backbone.act_learn == 0.75
    assert ema.module.backbone.act_learn == 0.75
    assert ema.module.backbone is not runner.model.module.backbone


@pytest.mark.parametrize(
    ('hook', 'options', 'sentence'),
    [
        (dict(end=6), {}, 'ends at 6 of 6 epochs, .* set its end to at most 5'),
        (dict(end=18, by_epoch=False), {}, 'ends at 18 of 18 iterations'),
        (dict(end=2), dict(by_epoch=False), 'counts epochs, but training counts iterations'),
        (dict(end=2, begin=2), {}, 'begin=2 and end=2, expected 0 <= begin < end'),
        (dict(end=3), dict(deploy=True), 'no net in training form'),
    ],
)
def test_bad_windows(hook, options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        train(tmp_path, hook, **options)
