"""Checkpoints saved from DataParallel, DDP, torch.compile or averaged models."""

import json
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmvanilla import VanillaNet, fuse, safe_loading
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.load import build_model

WRAPS = dict(
    parallel=nn.DataParallel,
    compiled=torch.compile,
    both=lambda model: nn.DataParallel(torch.compile(model)),
    averaged=AveragedModel,
)


def wrapped(model, how):
    state = WRAPS[how](model).state_dict()
    assert not set(state) & set(model.state_dict())
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('how', WRAPS)
def test_a_detector_is_built_whole(how, deploy, build, small_config, tmp_path):
    model = build('retinanet')
    if deploy:
        fuse(model)
    file = str(tmp_path / 'wrapped.pth')
    torch.save(dict(state_dict=wrapped(model, how), meta=dict(epoch=3)), file)
    built, meta = build_model(small_config('retinanet'), file)
    assert meta['epoch'] == 3
    assert built.backbone.deploy == deploy
    for name, value in model.state_dict().items():
        assert torch.equal(built.state_dict()[name], value)


def test_mmdet_predict_and_deploy_agree_on_it(files, tool_output, run_test, tmp_path):
    from mmdet.apis import inference_detector, init_detector

    model, config, checkpoint = files('retinanet')
    torch.save(dict(state_dict=wrapped(model, 'parallel'), meta={}), checkpoint)
    data = make_shapes(tmp_path / 'shapes', train=1, val=1, size=96)
    photo = next((data / 'coco/val2017').iterdir())
    tool_output('predict.py', config, checkpoint, photo, '--out', tmp_path / 'out')
    theirs = init_detector(str(config), str(checkpoint), device='cpu')
    expected = inference_detector(theirs, str(photo)).pred_instances.scores
    found = json.loads((tmp_path / 'out/predictions.json').read_text())
    scores = torch.tensor([entry['score'] for entry in found])
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    tool_output('deploy.py', config, checkpoint, '--out', tmp_path / 'deploy.pth')
    run_test(config, checkpoint, data / 'coco')


def net(**options):
    torch.manual_seed(0)
    return VanillaNet(dict(dims=[8, 12, 16], strides=[2, 2]), out_indices=[0, 1], **options)


def forms(backbone, how):
    """Return the contents of checkpoints that users save, by name."""
    bare = wrapped(backbone, how)
    model = nn.ModuleDict(dict(backbone=backbone, neck=nn.Conv2d(2, 2, 1)))
    whole = wrapped(model, how)
    return dict(
        bare=bare,
        state_dict=dict(state_dict=bare),
        whole=dict(state_dict=whole, meta={}),
        whole_bare=whole,
        published=dict(model=bare),
        averaged=dict(model={k: v * 0 for k, v in bare.items()}, model_ema=bare),
    )


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('form', forms(net(), 'parallel'))
@pytest.mark.parametrize('how', ['parallel', 'both', 'averaged'])
def test_a_backbone_is_initialised_from_it(how, form, deploy, tmp_path):
    backbone = net(deploy=deploy)
    file = str(tmp_path / 'wrapped.pth')
    torch.save(forms(backbone, how)[form], file)
    prefixes = [None, 'backbone.']
    if 'averaged' not in (form, how) or form == 'whole':
        # The prefix that was needed before.
        prefixes += ['module.backbone.', 'module.backbone'] if 'whole' in form else ['module.']
    for prefix in prefixes:
        init = dict(type='Pretrained', checkpoint=file, prefix=prefix)
        other = net(deploy=deploy, init_cfg=init)
        for parameter in other.parameters():
            parameter.data.fill_(7)
        other.init_weights()
        for name, value in backbone.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)


def test_bare_weights_of_other_nets_keep_their_names(tmp_path):
    other = nn.ModuleDict(dict(stem=nn.Conv2d(3, 4, 3), stages=nn.Sequential(nn.Conv2d(4, 4, 1))))
    for state in (other.state_dict(), dict(state_dict=other.state_dict())):
        torch.save(state, tmp_path / 'other.pth')
        with safe_loading():
            loaded = load_checkpoint(nn.Identity(), str(tmp_path / 'other.pth'))
        assert loaded.get('state_dict', loaded).keys() == other.state_dict().keys()


def test_other_state_dicts_of_a_checkpoint_keep_their_names(tmp_path):
    """EMAHook needs the prefix `module.`."""
    backbone = net()
    averaged = {f'module.{name}': value for name, value in backbone.state_dict().items()}
    saved = dict(state_dict=wrapped(backbone, 'parallel'), ema_state_dict=dict(averaged))
    torch.save(saved, tmp_path / 'a.pth')
    with safe_loading():
        loaded = load_checkpoint(net(), str(tmp_path / 'a.pth'))
    assert loaded['ema_state_dict'].keys() == averaged.keys()
    assert not any(name.startswith('module.') for name in loaded['state_dict'])


@pytest.mark.parametrize('form', forms(net(), 'parallel'))
def test_a_wrapped_checkpoint_is_converted(form, tool_output, tmp_path):
    backbone = net()
    torch.save(forms(backbone, 'parallel')[form], tmp_path / 'in.pth')
    out = tool_output('convert_checkpoint.py', tmp_path / 'in.pth', tmp_path / 'out.safetensors')
    assert 'largest difference of outputs 0' in out
    written = load_file(tmp_path / 'out.safetensors')
    for name, value in backbone.state_dict().items():
        assert torch.equal(written[f'backbone.{name}'], value)


@pytest.mark.parametrize(
    'options',
    [
        dict(in_channels=1),
        dict(in_channels=7, act_num=1),
        dict(norm_cfg=dict(type='GN', num_groups=2)),
        dict(norm_cfg=dict(type='IN')),
        dict(norm_cfg=dict(type='IN', affine=True)),
        dict(norm_cfg=dict(type='BN', affine=False)),
        dict(norm_cfg=dict(type='BN', track_running_stats=False)),
        dict(in_channels=2, deploy=True),
    ],
    ids=str,
)
def test_nets_of_other_channels_and_norms_are_converted(options, tool_output, tmp_path):
    backbone = net(**options)
    torch.save(backbone.state_dict(), tmp_path / 'in.pth')
    for source, target, more in (
        ('in.pth', 'out.safetensors', []),
        ('out.safetensors', 'back.pth', ['--published']),
    ):
        tool_output('convert_checkpoint.py', tmp_path / source, tmp_path / target, *more)
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'back.pth'))
    other = net(**options, init_cfg=init)
    for parameter in other.parameters():
        parameter.data.fill_(7)
    other.init_weights()
    image = torch.randn(1, backbone.in_channels, 32, 32)
    for found, expected in zip(other.eval()(image), backbone.eval()(image), strict=True):
        assert torch.equal(found, expected)


def test_windows_of_several_sizes_are_converted(tool_output, tmp_path):
    backbone = net(act_num=2)
    backbone.stem2[2].weight = nn.Parameter(backbone.stem2[2].weight[..., 1:-1, 1:-1].clone())
    torch.save(backbone.state_dict(), tmp_path / 'in.pth')
    tool_output('convert_checkpoint.py', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert os.path.getsize(tmp_path / 'out.pth')


def test_a_peer_whose_stem_has_the_same_name_is_not_taken_for_a_fused_net(tmp_path):
    """The stem of ResNet-D has the name of a fused VanillaNet's stem."""
    init_default_scope('mmpretrain')
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNetV1d', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=512),
    )
    saved = MODELS.build(model).state_dict()
    torch.save(dict(state_dict=saved), tmp_path / 'peer.pth')
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    built, _ = build_model(cfg, str(tmp_path / 'peer.pth'))
    assert any(name.startswith('backbone.stem.') for name in saved)
    assert all(torch.equal(built.state_dict()[name], value) for name, value in saved.items())
