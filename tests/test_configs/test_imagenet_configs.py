"""The ImageNet recipes, against docs/imagenet.md, and their sizes, against Table 3."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import ImageClassifier

from mmvanilla.benchmark.counting import count
from mmvanilla.deploy.load import set_form
from projects.paper_tables.published import TABLE3

ROOT = Path(__file__).parents[2]
ROW = re.compile(r'^\| `(vanillanet\S*_imagenet.py)` \| (.*) \|$', re.MULTILINE)
# The recipes in docs/imagenet.md by arch: learning rate, weight decay, mixup, layer decay, top-1;
# 'as 10' from 11 on: no recipe was published.
RECIPES = {
    str(Config.fromfile(ROOT / f'configs/{name}').model.backbone.arch): re.split(r' *\| *', row)
    for name, row in ROW.findall((ROOT / 'docs/imagenet.md').read_text())
}


def read(arch):
    name = arch.replace('-x1.5', '_1.5x').replace('-ada', '_ada')
    cfg = Config.fromfile(ROOT / f'configs/vanillanet{name}_imagenet.py')
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('arch', RECIPES)
def test_recipe_is_the_one_of_the_docs(arch):
    cfg = read(arch)
    row = RECIPES['10' if RECIPES[arch][0] == 'as 10' else arch]
    rate, weight_decay, mixup, layer_decay = (float(text) if text else None for text in row[:4])
    assert float(RECIPES[arch][4]) == TABLE3[f'VanillaNet-{arch}'].top1
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('Lamb', rate, weight_decay)
    assert cfg.model.train_cfg.augments == dict(type='Mixup', alpha=mixup)
    assert cfg.optim_wrapper.paramwise_cfg.get('decay_rate') == layer_decay
    assert ('constructor' in cfg.optim_wrapper) == (layer_decay is not None)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == 300
    hooks = {hook.type: hook for hook in cfg.custom_hooks}
    assert hooks['DeepTrainingHook'].end == 100
    assert 1 - hooks['EMAHook'].momentum == pytest.approx(0.99996, abs=1e-9)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    augment = steps['RandAugment']
    assert (augment.magnitude_level, augment.magnitude_std) == (7, 0.5)
    assert augment.policies == 'timm_increasing'
    assert 'RandomErasing' not in steps
    steps = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    assert steps['CenterCrop'].crop_size == 224 == 0.875 * steps['ResizeEdge'].scale
    assert cfg.model.head.drop_rate == 0.05
    assert cfg.model.head.loss.use_sigmoid


@pytest.mark.parametrize('arch', RECIPES)
def test_sizes_are_those_of_table3(arch):
    cfg = read(arch)
    published = TABLE3[f'VanillaNet-{arch}']
    with torch.device('meta'):
        training = MODELS.build(cfg.model)
        set_form(cfg.model, deploy=True)
        net = MODELS.build(cfg.model).eval()
    assert isinstance(net, ImageClassifier)
    # The head in training form: two layers and a norm.
    backbone, features = training.backbone, cfg.model.head.in_channels
    size = sum(p.numel() for p in training.parameters())
    size -= sum(p.numel() for p in backbone.parameters())
    assert size == (features + 1) * 1000 + 2 * 1000 + 1001 * 1000
    counts = count(net, lambda: net(torch.empty(1, 3, 224, 224, device='meta'), mode='tensor'))
    assert counts.params / 1e6 == pytest.approx(published.params, abs=5.1e-4)
    assert counts.dense / 1e9 == pytest.approx(published.dense, abs=5.1e-4)
    assert counts.depthwise / 1e9 == pytest.approx(published.depthwise, abs=5.1e-4)


def test_the_mean_over_the_classes_is_the_loss():
    cfg = read('5')
    cfg.model.head.in_channels = 4
    head = MODELS.build(cfg.model.head)
    logits, target = torch.randn(3, 1000), torch.rand(3, 1000)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    found = head.loss_module(logits, target, avg_factor=3)
    torch.testing.assert_close(found, expected)
