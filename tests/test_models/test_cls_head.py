"""The classification head, against the authors' logits and PyTorch's functions."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from mmvanilla import fuse, safe_loading
from mmvanilla.errors import CheckpointError, UserError

RECORD = Path(__file__).parents[1] / 'data/cls6.pt'


@pytest.fixture
def record():
    return torch.load(RECORD, weights_only=True)


@pytest.fixture
def file(record, tmp_path):
    torch.save(record['checkpoint'], tmp_path / 'published.pth')
    return str(tmp_path / 'published.pth')


def classifier(record, classes=10, init_cfg=None, backbone_init=None, deploy=False):
    init_default_scope('mmpretrain')
    arch = dict(record['arch'])
    backbone = dict(type='VanillaNet', act_num=arch.pop('act_num'), arch=arch, out_indices=(3,))
    head = dict(type='VanillaNetClsHead', num_classes=classes, in_channels=arch['dims'][-1])
    model = dict(
        type='ImageClassifier',
        backbone=dict(backbone, deploy=deploy, init_cfg=backbone_init),
        head=dict(head, deploy=deploy),
        init_cfg=init_cfg,
    )
    return MODELS.build(model).eval()


def pretrained(file):
    return dict(type='Pretrained', checkpoint=file)


@torch.no_grad()
def assert_logits(model, record, key):
    difference = model(record['input']) - record[key]
    assert difference.norm() <= 1e-5 * record[key].norm()


@pytest.fixture(autouse=True)
def published_formats():
    """Load published files, as the tools do."""
    with safe_loading():
        yield


@pytest.mark.parametrize('door', ['init_cfg', 'load_from'])
def test_logits_of_the_published_net(door, record, file):
    if door == 'init_cfg':
        model = classifier(record, init_cfg=pretrained(file))
        model.init_weights()
    else:
        model = classifier(record)
        load_checkpoint(model, file)
    assert_logits(model, record, 'logits_act1')
    for module in (model.backbone, model.head):
        module.act_learn = 0.3
    assert_logits(model, record, 'logits_act0.3')
    for module in (model.backbone, model.head):
        module.act_learn = 1
    assert fuse(model) is model
    assert_logits(model, record, 'logits_deploy')
    assert_logits(model, record, 'logits_act1')
    built = classifier(record, deploy=True)
    built.load_state_dict(model.state_dict())  # strict, so the names are the same
    assert_logits(built, record, 'logits_deploy')


def test_another_number_of_classes(record, file):
    for load in (
        lambda: classifier(record, 7, pretrained(file)).init_weights(),
        lambda: load_checkpoint(classifier(record, 7), file),
    ):
        with pytest.raises(CheckpointError, match='has 10 classes and the head 7; set num_classes'):
            load()
    model = classifier(record, 7, backbone_init=pretrained(file))
    model.init_weights()
    features = model.backbone(record['input'])[-1]
    theirs = record['features_act1'][-1]
    assert (features - theirs).norm() <= 1e-5 * theirs.norm()
    assert model(record['input']).shape == (2, 7)


def changed(record, tmp_path, change):
    weights = record['checkpoint']['model_ema']
    change(weights)
    torch.save(dict(model=weights), tmp_path / 'changed.pth')
    return str(tmp_path / 'changed.pth')


def test_a_head_without_a_weight(record, tmp_path):
    file = changed(record, tmp_path, lambda weights: weights.pop('cls2.0.bias'))
    with pytest.raises(CheckpointError, match="lacks 'head.cls2.0.bias'"):
        load_checkpoint(classifier(record), file)


def test_a_head_of_other_width(record, tmp_path):
    def narrow(weights):
        weights['cls1.2.weight'] = weights['cls1.2.weight'][:, :5].clone()

    with pytest.raises(CheckpointError, match=r'has the shape \(10, 5, 1, 1\) in the checkpoint'):
        load_checkpoint(classifier(record), changed(record, tmp_path, narrow))


def test_a_checkpoint_without_a_head_leaves_it_new(record, tmp_path):
    def behead(weights):
        for name in [name for name in weights if name.startswith('cls')]:
            del weights[name]

    model = classifier(record)
    before = {name: value.clone() for name, value in model.head.state_dict().items()}
    load_checkpoint(model, changed(record, tmp_path, behead))
    assert all(torch.equal(before[n], v) for n, v in model.head.state_dict().items())


def test_the_deploy_form_does_not_fit_the_training_form(record):
    training, deployed = (classifier(record, deploy=deploy).head for deploy in (False, True))
    for head, other, form in ((training, deployed, 'deploy'), (deployed, training, 'training')):
        with pytest.raises(CheckpointError, match=f'is in {form} form, but the head .*deploy='):
            head.load_state_dict(other.state_dict())


@pytest.mark.parametrize('act_learn', [0, 0.25, 1])
def test_training_form_equals_the_formula(act_learn, trained):
    head = trained(MODELS.build(dict(type='VanillaNetClsHead', num_classes=5, in_channels=6)))
    head.act_learn = act_learn
    conv, norm = head.cls1[2], head.cls1[3]
    x = torch.randn(4, 6, 3, 2)
    pooled = x.mean((2, 3))
    hidden = nn.functional.linear(pooled, conv.weight.flatten(1), conv.bias)
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-6).sqrt()
    hidden = hidden * norm.weight + norm.bias
    hidden = torch.where(hidden > 0, hidden, act_learn * hidden)
    expected = nn.functional.linear(hidden, head.cls2[0].weight.flatten(1), head.cls2[0].bias)
    torch.testing.assert_close(head((x,)), expected, rtol=1e-4, atol=1e-5)


def test_a_head_that_cannot_be_fused(trained):
    head = MODELS.build(dict(type='VanillaNetClsHead', num_classes=5, in_channels=6))
    model = nn.ModuleDict(dict(head=head))
    with pytest.raises(UserError, match='head.cls1.3 cannot be fused: it has never seen a batch'):
        fuse(model)
    trained(head).act_learn = 0.5
    with pytest.raises(UserError, match='act_learn of head is 0.5, expected 1'):
        fuse(model)
    assert not head.deploy


@pytest.mark.parametrize('name', ['cls1', 'cls1.2', 'cls1.3', 'cls2', 'cls2.0'])
def test_fusing_a_head_drops_no_hook_that_changes_its_logits(name, trained):
    head = trained(MODELS.build(dict(type='VanillaNetClsHead', num_classes=5, in_channels=6)))
    head.cls1[0] = nn.AdaptiveMaxPool2d(1)
    head.eval().get_submodule(name).register_forward_hook(lambda _module, _args, out: 2 * out)
    x = torch.randn(2, 6, 3, 3)
    before = head((x,))
    with pytest.raises(UserError, match='head.cls1.2 to head.cls2.0 cannot be fused'):
        fuse(nn.ModuleDict(dict(head=head)))
    assert torch.equal(head((x,)), before)
    head.get_submodule(name)._forward_hooks.clear()
    expected = head((x,))
    torch.testing.assert_close(fuse(head)((x,)), expected)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(num_classes=0), 'num_classes of the head is 0, expected an integer'),
        (dict(in_channels='6'), "in_channels of the head is '6', expected an integer"),
        (dict(drop_rate=1), 'drop_rate of the head is 1, expected a number from 0 to below 1'),
        (dict(norm_cfg='BN'), "norm_cfg of the head is 'BN', expected a dict with a type"),
        (dict(deploy='no'), "deploy of the head is 'no', expected True or False"),
    ],
)
def test_arguments(options, sentence):
    with pytest.raises(UserError, match=sentence):
        MODELS.build(
            dict(type='VanillaNetClsHead', **{'num_classes': 5, 'in_channels': 6} | options)
        )


def test_features_that_were_pooled():
    head = MODELS.build(dict(type='VanillaNetClsHead', num_classes=5, in_channels=6))
    with pytest.raises(UserError, match=r'of shape \(2, 6\), expected \(N, 6, H, W\)'):
        head((torch.rand(2, 6),))


def test_importing_the_package_imports_no_framework_and_registers_the_head(fresh_python):
    code = (
        'import sys, mmvanilla\n'
        'assert "mmpretrain" not in sys.modules\n'
        'from mmengine.registry import MODELS\n'
        'head = MODELS.build(dict(type="VanillaNetClsHead", num_classes=2, in_channels=3))\n'
        'from mmpretrain.models import build_head\n'
        'assert type(build_head(dict(type="VanillaNetClsHead", num_classes=2, in_channels=3)))'
        ' is type(head)\n'
    )
    done = fresh_python('-c', code)
    assert done.returncode == 0, done.stderr
