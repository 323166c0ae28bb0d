"""Trainings with mmengine's efficient_conv_bn_eval compute what they compute without it."""

import copy

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from toy_training import toy_config, toy_loader

from mmvanilla import VanillaNet, fuse
from mmvanilla.models.cls_head import VanillaNetClsHead

pytestmark = pytest.mark.usefixtures('one_thread')


@MODELS.register_module()
class EfficientModel(BaseModel):
    def __init__(self, **options):
        super().__init__()
        arch = dict(dims=[4, 6, 8, 8], strides=[1, 2, 2])
        self.backbone = VanillaNet(arch, out_indices=(0, 1, 2), **options)
        self.head = VanillaNetClsHead(5, 8, loss=torch.nn.CrossEntropyLoss())

    def forward(self, inputs, mode='tensor'):
        features = self.backbone(inputs)
        logits = self.head.forward(features)
        if mode != 'loss':
            return [*features, logits]
        waves = [torch.arange(f[0].numel()).sin().view(f.shape[1:]) for f in features]
        losses = [(f * wave).mean() for f, wave in zip(features, waves, strict=True)]
        return dict(loss=sum(losses) + logits.square().mean())


@DATASETS.register_module()
def efficient_images():
    generator = torch.Generator().manual_seed(0)
    return [dict(inputs=torch.randn(3, 32, 32, generator=generator)) for _ in range(6)]


def train(trained, folder, modules, act_learn=None, **options):
    model = dict(type='EfficientModel', **options)
    cfg = toy_config(folder, model, toy_loader('efficient_images'), 2, randomness=dict(seed=0))
    if modules:
        cfg.efficient_conv_bn_eval = modules
    if act_learn:
        cfg.custom_hooks = [dict(type='DeepTrainingHook', end=4, by_epoch=False)]
    runner = Runner.from_cfg(cfg)
    trained(runner.model)
    runner.train()
    return runner.model


@pytest.mark.parametrize(
    ('modules', 'options'),
    [
        (['backbone', 'head'], dict()),
        (['backbone', 'head'], dict(act_learn=True)),
        ('backbone', dict(norm_eval=True, act_learn=True, frozen_stages=1)),
        ('backbone', dict(with_cp=True, norm_eval=True)),
        ('backbone.stages.1', dict(act_learn=True)),
        ('backbone.stages.1', dict(norm_eval=True)),
        (['backbone.stages.0.act', 'backbone.stages.1.act'], dict(norm_eval=True)),
    ],
)
def test_training_is_the_same(modules, options, trained, tmp_path):
    expected = train(trained, tmp_path / 'usual', None, **options)
    found = train(trained, tmp_path / 'efficient', modules, **options)
    for part in 'backbone', 'head':
        assert getattr(found, part).act_learn == getattr(expected, part).act_learn
    before = trained(EfficientModel()).state_dict()
    changed = 0
    for (name, a), b in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)
        changed += not torch.equal(a, before[name])
    assert changed > 20
    images = torch.randn(2, 3, 32, 32)
    for model in (found, expected):
        model.train()
        model.zero_grad()
        model(images, 'loss')['loss'].backward()
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


def test_fusion_after_it_keeps_the_outputs(trained, tmp_path):
    model = train(trained, tmp_path, ['backbone', 'head']).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    for a, b in zip(fuse(copy.deepcopy(model))(images), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
