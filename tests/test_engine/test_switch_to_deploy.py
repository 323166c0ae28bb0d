"""The hook that tests and validates the fused net, in whole runs of mmengine's runner."""

import json

import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from toy_training import toy_config, toy_loader

from mmvanilla import VanillaNet
from mmvanilla.engine import SwitchToDeployHook

ARCH = dict(dims=[4, 6, 8], strides=[2, 1])


@MODELS.register_module()
class FusableModel(BaseModel):
    """A VanillaNet with a loss that records the form of each prediction."""

    forms = []

    def __init__(self, deploy=False):
        super().__init__()
        self.backbone = VanillaNet(ARCH, out_indices=[1], deploy=deploy)

    def forward(self, inputs, mode):
        (features,) = self.backbone(inputs)
        if mode == 'loss':
            # As dropout does; validation must not advance the generator.
            return dict(loss=(features + torch.rand(features.shape)).square().mean())
        fused = self.backbone.deploy or self.backbone.twin is not None
        self.forms.append('deploy' if fused else 'training')
        return [features.mean()]


@METRICS.register_module()
class MeanFeature(BaseMetric):
    """The mean prediction; raises ``fail`` if set."""

    default_prefix = 'mean'
    fail = None

    def process(self, data_batch, data_samples):
        if MeanFeature.fail:
            raise MeanFeature.fail
        self.results.extend(sample.item() for sample in data_samples)

    def compute_metrics(self, results):
        return dict(feature=sum(results) / len(results))


@DATASETS.register_module()
def noise():
    generator = torch.Generator().manual_seed(0)
    return [dict(inputs=torch.rand(3, 16, 16, generator=generator)) for _ in range(6)]


class Losses(Hook):
    """Record the losses of a training."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(outputs['loss'].item())


@pytest.fixture(autouse=True)
def fresh_records():
    FusableModel.forms = []
    MeanFeature.fail = None
    yield
    MeanFeature.fail = None


def build(work_dir, hooks, ema=False, model='FusableModel', **settings):
    loader = toy_loader('noise')
    defaults = dict(
        custom_hooks=hooks + ([dict(type='EMAHook', momentum=0.2)] if ema else []),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', save_best='mean/feature', rule='less')
        ),
        randomness=dict(seed=0),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        log_level='INFO',
    )
    for part in ('val', 'test'):
        defaults[f'{part}_dataloader'], defaults[f'{part}_cfg'] = loader, {}
        defaults[f'{part}_evaluator'] = dict(type='MeanFeature')
    cfg = toy_config(work_dir, model, loader, 3, **(defaults | settings))
    return Runner.from_cfg(cfg)


def train(work_dir, hooks, **settings):
    runner = build(work_dir, hooks, **settings)
    losses = Losses()
    runner.register_hook(losses)
    runner.train()
    return losses.values, runner


DEPLOY = dict(type='SwitchToDeployHook')


def metrics(work_dir):
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record['mean/feature'] for record in records if 'mean/feature' in record]


@pytest.mark.parametrize('ema', [False, True])
def test_training_is_the_same_to_the_last_bit(ema, tmp_path):
    expected, plain = train(tmp_path / 'plain', [], ema=ema)
    assert FusableModel.forms == ['training'] * 9
    found, fused = train(tmp_path / 'fused', [DEPLOY], ema=ema)
    assert FusableModel.forms[9:] == ['deploy'] * 9
    assert found == expected
    assert len(set(found)) == 9
    weights, others = plain.model.state_dict(), fused.model.state_dict()
    assert list(weights) == list(others)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert metrics(tmp_path / 'fused') == pytest.approx(metrics(tmp_path / 'plain'), rel=1e-5)
    # Checkpoints hold the training form, which can be resumed.
    for path in sorted((tmp_path / 'fused').glob('*.pth')):
        saved = torch.load(path, weights_only=False)
        expected = torch.load(tmp_path / 'plain' / path.name, weights_only=False)
        assert list(saved['state_dict']) == list(weights)
        for name, value in expected['state_dict'].items():
            assert torch.equal(saved['state_dict'][name], value)


def test_a_second_model_form_is_validated_during_deep_training(tmp_path):
    hooks = [dict(type='DeepTrainingHook', end=2), DEPLOY]
    train(tmp_path, hooks)
    assert FusableModel.forms == ['training'] * 6 + ['deploy'] * 3
    (log,) = tmp_path.glob('*/*.log')
    assert log.read_text().count('The training form is used: act_learn of backbone is') == 2


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('ema', [False, True])
def test_a_validation_that_fails_leaves_the_training_as_it_was(ema, error, tmp_path):
    class FailInSecondEpoch(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            if runner.epoch == 2 and batch_idx == 1:
                MeanFeature.fail = error('validation fails')

    class Keep(Hook):
        priority = 'VERY_HIGH'

        def before_val_epoch(self, runner):
            self.model = runner.model
            self.weights = {k: v.clone() for k, v in runner.model.state_dict().items()}

    runner = build(tmp_path, [DEPLOY], ema=ema)
    keep = Keep()
    runner.register_hook(FailInSecondEpoch())
    runner.register_hook(keep)
    with pytest.raises(error, match='validation fails'):
        runner.train()
    assert FusableModel.forms[-1] == 'deploy'
    for hook in runner.hooks:
        if isinstance(hook, SwitchToDeployHook):
            hook.abandon(runner)  # as tools/train.py does
            hook.abandon(runner)
    assert runner.model is keep.model
    assert runner.model.backbone.twin is None
    assert list(runner.model.state_dict()) == list(keep.weights)
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, keep.weights[name])


@pytest.mark.parametrize('ema', [False, True])
def test_a_test_runs_the_deploy_form(ema, tmp_path):
    train(tmp_path / 'train', [], ema=ema)
    checkpoint = str(tmp_path / 'train/epoch_3.pth')
    plain = build(tmp_path / 'plain', [], ema=ema, load_from=checkpoint).test()
    FusableModel.forms.clear()
    runner = build(tmp_path / 'fused', [DEPLOY], ema=ema, load_from=checkpoint)
    found = runner.test()
    assert FusableModel.forms == ['deploy'] * 3
    assert runner.model.backbone.deploy
    assert found['mean/feature'] == pytest.approx(plain['mean/feature'], rel=1e-5)
    assert runner.test() == found  # fused already


def test_a_half_trained_net_is_tested_in_training_form(tmp_path):
    runner = build(tmp_path, [DEPLOY])
    runner.model.backbone.act_learn = 0.5
    runner.test()
    assert FusableModel.forms == ['training'] * 3


@pytest.mark.parametrize('ema', [False, True])
@pytest.mark.parametrize('best', ['mean/feature', None])
def test_the_deploy_form_is_written_beside_the_best_checkpoint(best, ema, tmp_path):
    checkpoint = dict(type='CheckpointHook', save_best=best, rule='less')
    hooks = [dict(DEPLOY, save=True)]
    train(tmp_path, hooks, ema=ema, default_hooks=dict(checkpoint=checkpoint))
    (written,) = tmp_path.glob('*_deploy.pth')
    (source,) = tmp_path.glob('best*[0-9].pth') if best else [tmp_path / 'epoch_3.pth']
    assert written.stem == f'{source.stem}_deploy'
    models = []
    for path, deploy in ((source, False), (written, True)):
        model = FusableModel(deploy).eval()
        saved = torch.load(path, weights_only=False)
        model.load_state_dict(saved['state_dict'])
        models.append(model)
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        a, b = (model.backbone(image)[0] for model in models)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_distributed_model_is_validated_fused(tmp_path):
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        runner = build(tmp_path, [DEPLOY])
        runner.model = wrapper = MMDistributedDataParallel(runner.model)
        losses = Losses()
        runner.register_hook(losses)
        runner.train()
        assert FusableModel.forms == ['deploy'] * 9
        assert runner.model is wrapper
    finally:
        dist.destroy_process_group()
    FusableModel.forms = []
    expected, _ = train(tmp_path / 'single', [])
    assert losses.values == expected


@MODELS.register_module()
class RememberingModel(FusableModel):
    """Keep activations, as CondInst, YOLACT and feature recorders do."""

    def forward(self, inputs, mode):
        self.kept = self.backbone(inputs)
        self.backbone.kept = self.kept
        return super().forward(inputs, mode)


@pytest.mark.parametrize('save', [False, True])
def test_a_model_that_keeps_activations_is_validated_and_saved_fused(save, tmp_path):
    runner = build(tmp_path, [dict(DEPLOY, save=save)], model='RememberingModel')
    runner.train()
    assert FusableModel.forms == ['deploy'] * 9
    assert runner.model.kept[0].grad_fn is None  # from the validation
    assert len(list(tmp_path.glob('*_deploy.pth'))) == save


def test_a_compiled_training_is_validated_fused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        torch, 'compile', lambda step, **_: lambda *args, **kwargs: step(*args, **kwargs)
    )
    train(tmp_path, [DEPLOY], compile=True)
    assert FusableModel.forms == ['deploy'] * 9


def test_other_hooks_see_the_model_in_training_during_a_validation(tmp_path):
    """Hooks see the same model and the same weights."""

    class Watch(Hook):
        priority = 'LOWEST'
        names = []

        def before_val_epoch(self, runner):
            self.names.append(list(runner.model.state_dict()))

        def after_train_epoch(self, runner):
            self.names.append(list(runner.model.state_dict()))

    runner = build(tmp_path, [DEPLOY])
    runner.register_hook(Watch())
    before, model = list(runner.model.state_dict()), runner.model
    runner.train()
    assert Watch.names == [before] * 6
    assert runner.model is model
