"""With safe loading on, every way to load a checkpoint uses the safe loader.

With safe loading off, as in scripts of others, our own modules still use it.
"""

import json
import os
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from hostile_files import HOSTILE
from mmengine.config import ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch import nn

from mmvanilla import VanillaNet
from mmvanilla.deploy.load import build_model
from mmvanilla.deploy.predict import make_predictor
from mmvanilla.engine.hooks.switch_to_deploy import SwitchToDeployHook
from mmvanilla.errors import CheckpointError
from mmvanilla.installed import version
from mmvanilla.safe_load.download import cache_path

ARCH = dict(dims=[4, 4], strides=[2])
GADGET, SENTENCE = HOSTILE['os.system']


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = VanillaNet(ARCH, [0])

    def forward(self, inputs, mode):
        raise NotImplementedError


@pytest.fixture
def hostile(tmp_path):
    GADGET(tmp_path / 'hostile.pth', tmp_path / 'canary')
    return str(tmp_path / 'hostile.pth')


@pytest.fixture
def cache(tmp_path, monkeypatch, hostile):
    """Return the folder of downloads; nothing is fetched."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'home'))
    folder = tmp_path / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    (tmp_path / 'home').mkdir()
    return folder


def refused(call, tmp_path):
    with pytest.raises(CheckpointError, match=SENTENCE):
        call()
    assert not (tmp_path / 'canary').exists()


def run(file, tmp_path, **options):
    return Runner(
        Classifier(), str(tmp_path / 'w'), load_from=file, experiment_name=str(tmp_path), **options
    )


def init(net, file, **options):
    net.init_cfg = ConfigDict(type='Pretrained', checkpoint=file, **options)
    net.init_weights()


def of_mmdet(file):
    from mmdet.models import ResNet

    init(ResNet(18), file)


def of_mmdet_swin(file):
    from mmdet.models import SwinTransformer

    init(SwinTransformer(depths=(1, 1, 1, 1)), file)


def of_mmseg(file):
    from mmseg.models import ResNetV1c

    ResNetV1c(depth=18, pretrained=file).init_weights()


def of_mmseg_vit(file):
    from mmseg.models import VisionTransformer

    VisionTransformer(num_layers=1, pretrained=file).init_weights()


def of_mmpretrain(file):
    from mmpretrain.models import ResNet

    init(ResNet(18), file, prefix='backbone.')


def of_mmpretrain_model(file):
    from mmpretrain import get_model

    get_model('resnet18_8xb32_in1k', pretrained=file)


@pytest.mark.parametrize(
    'entry',
    [
        CheckpointLoader.load_checkpoint,
        lambda file: load_checkpoint(nn.Conv2d(1, 1, 1), file),
        of_mmdet,
        of_mmdet_swin,
        of_mmseg,
        of_mmseg_vit,
        of_mmpretrain,
        of_mmpretrain_model,
    ],
)
def test_functions(entry, hostile, tmp_path, safe):
    refused(lambda: entry(hostile), tmp_path)


@pytest.mark.parametrize('part', ['backbone', 'head'])
@pytest.mark.parametrize('options', [{}, dict(prefix='backbone.'), dict(prefix='head')])
def test_init_cfg_of_our_modules(part, options, hostile, tmp_path, monkeypatch):
    """They are safe by themselves, also where mmengine's own loading would run everything."""
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    net = VanillaNet(ARCH, [0])
    if part == 'head':
        init_default_scope('mmpretrain')
        net = MODELS.build(dict(type='VanillaNetClsHead', num_classes=3, in_channels=4))
    refused(lambda: init(net, hostile, **options), tmp_path)
    CheckpointLoader.load_checkpoint(hostile)
    assert (tmp_path / 'canary').exists()  # it is not left on


@pytest.mark.parametrize('open_file', [build_model, make_predictor])
def test_functions_that_open_a_model(open_file, hostile, tmp_path, small_config, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    refused(lambda: open_file(small_config('upernet'), hostile), tmp_path)
    CheckpointLoader.load_checkpoint(hostile)
    assert (tmp_path / 'canary').exists()


@pytest.mark.parametrize('resume', [False, True])
def test_runner(resume, hostile, tmp_path, safe):
    refused(run(hostile, tmp_path, resume=resume).load_or_resume, tmp_path)


def test_deploy_hook(hostile, tmp_path, safe):
    runner = run(None, tmp_path)
    (saver,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    saver.last_ckpt = hostile
    refused(lambda: SwitchToDeployHook(save=True).after_train(runner), tmp_path)


def test_the_environment_cannot_turn_it_off(hostile, tmp_path, monkeypatch, safe):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    refused(lambda: CheckpointLoader.load_checkpoint(hostile), tmp_path)


# The models of OneDL's libraries are elsewhere.
ONEDL = bool(version('onedl-mmengine'))
OPENMMLAB = 'https://mmassets.onedl.ai' if ONEDL else 'https://download.openmmlab.com'
NAMES = {
    'https://example.invalid/release/a.pth': 'https://example.invalid/release/a.pth',
    'torchvision://resnet18': 'https://download.pytorch.org/models/resnet18-f37072fd.pth',
    'modelzoo://resnet18': 'https://download.pytorch.org/models/resnet18-f37072fd.pth',
    'open-mmlab://vgg16_caffe': f'{OPENMMLAB}/pretrain/third_party/vgg16_caffe-292e1171.pth',
    'openmmlab://vgg16_caffe': f'{OPENMMLAB}/pretrain/third_party/vgg16_caffe-292e1171.pth',
    'mmcls://vgg11': f'{OPENMMLAB}/mmclassification/v0/vgg/'
    'vgg11_batch256_imagenet_20210208-4271cd6c.pth',
}


def place(file, url, cache):
    """Put a file where the download of a URL is looked for."""
    downloaded = Path(cache_path(url, str(cache)))
    downloaded.parent.mkdir()
    os.replace(file, downloaded)


@pytest.mark.parametrize('name', NAMES)
def test_schemes(name, cache, hostile, tmp_path, safe):
    place(hostile, NAMES[name], cache)
    refused(lambda: CheckpointLoader.load_checkpoint(name), tmp_path)


def test_a_file_in_mmengines_folder(cache, hostile, tmp_path, safe):
    (tmp_path / 'home/open_mmlab.json').write_text(json.dumps(dict(mine=hostile)))
    refused(lambda: CheckpointLoader.load_checkpoint('openmmlab://mine'), tmp_path)
    digest = '0' * 64
    with pytest.raises(CheckpointError, match=f'expected {digest}'):
        CheckpointLoader.load_checkpoint(f'openmmlab://mine#sha256={digest}')


@pytest.mark.parametrize('name', ['torchvision://none', 'openmmlab://none', 'mmcls://none'])
def test_unknown_names(name, cache, safe):
    with pytest.raises(CheckpointError, match=f'{name}.* is unknown'):
        CheckpointLoader.load_checkpoint(name)


@pytest.mark.parametrize('name', ['pavi://a.pth', 's3://a.pth', 'petrel://a', 'x:s3://a.pth'])
def test_storages_are_refused(name, monkeypatch, safe):
    monkeypatch.setitem(sys.modules, 'pavi', types.ModuleType('pavi'))
    with pytest.raises(CheckpointError, match='in a storage that is not read safely'):
        CheckpointLoader.load_checkpoint(name)


def test_no_scheme_of_mmengine_is_left(safe):
    for prefix, loader in CheckpointLoader._schemes.items():
        assert not loader.__module__.startswith('mmengine'), prefix


def test_good_weights_by_a_name(cache, tmp_path, safe):
    weights = {'backbone.w': torch.rand(3), 'head.w': torch.rand(2)}
    torch.save(dict(state_dict=weights), tmp_path / 'vgg.pth')
    place(tmp_path / 'vgg.pth', NAMES['mmcls://vgg11'], cache)
    loaded = CheckpointLoader.load_checkpoint('mmcls://vgg11')['state_dict']
    assert loaded.keys() == {'w'}
    assert torch.equal(loaded['w'], weights['backbone.w'])


def test_an_inferencer_runs_no_config_from_a_checkpoint(tmp_path, safe):
    from mmdet.apis import DetInferencer

    init_default_scope('mmdet')
    code = f'import os\nos.mkdir({str(tmp_path / "canary")!r})\nmodel = dict()'
    for entries in (
        dict(meta=dict(cfg=code)),
        dict(meta=dict(config=code), message_hub=dict(runtime_info=dict(cfg=code))),
    ):
        torch.save(dict(state_dict=dict(w=torch.rand(2)), **entries), tmp_path / 'a.pth')
        with pytest.raises(ValueError, match='Cannot find the config'):
            DetInferencer(weights=str(tmp_path / 'a.pth'))
    assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize('suffix', ['.pt2', '.onnx', '.xml'])
def test_exported_files(suffix, tmp_path, small_config):
    """A checkpoint under the name of an exported file is unpickled by no runtime either."""
    pytest.importorskip({'.onnx': 'onnxruntime', '.xml': 'openvino', '.pt2': 'torch'}[suffix])
    file = tmp_path / f'model{suffix}'
    GADGET(tmp_path / 'a.pth', tmp_path / 'canary')
    os.replace(tmp_path / 'a.pth', file)
    with pytest.raises(ValueError, match='is a program of PyTorch|cannot be opened') as error:
        make_predictor(small_config('upernet'), str(file))
    assert re.fullmatch(r'.+', str(error.value))
    assert not (tmp_path / 'canary').exists()
    with pytest.raises(CheckpointError, match=f'expected {"0" * 64}'):
        make_predictor(small_config('upernet'), f'{file}#sha256={"0" * 64}')
