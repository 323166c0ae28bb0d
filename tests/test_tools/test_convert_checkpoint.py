"""Published weights, converted to this package's files and back."""

import logging
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmvanilla import VanillaNet, safe_loading

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'tests/data'


def convert(monkeypatch, *arguments):
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # mmengine's logger outlives a test
    monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools/convert_checkpoint.py'), run_name='__main__')


@torch.no_grad()
def assert_features(record, file):
    """Check a file's features against what the authors' code computes."""
    arch = dict(record['arch'])
    net = VanillaNet(act_num=arch.pop('act_num'), arch=arch).eval()
    with safe_loading():
        load_checkpoint(net, str(file))
    key = 'features' if 'features' in record else 'features_act1'
    for ours, theirs in zip(net(record['input']), record[key], strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('name', ['cls6', 'det13', 'ada13'])
def test_there_and_back(name, suffix, tmp_path, monkeypatch, capsys):
    record = torch.load(DATA / f'{name}.pt', weights_only=True)
    source, ours, back = (tmp_path / file for file in ('in.pth', f'ours{suffix}', 'back.pth'))
    torch.save(record['checkpoint'], source)
    convert(monkeypatch, source, ours)
    assert 'largest difference of outputs 0' in capsys.readouterr().out
    convert(monkeypatch, ours, back, '--published')
    for file in (ours, back):
        assert_features(record, file)

    published = record['checkpoint']
    original = published.get('model_ema') or published.get('model') or published['state_dict']
    returned = torch.load(back, weights_only=True)
    returned = returned.get('model') or returned['state_dict']
    assert returned.keys() == original.keys()  # the head's as well
    assert all(torch.equal(returned[key], original[key]) for key in original)
    assert sorted(os.listdir(tmp_path)) == sorted(['back.pth', 'in.pth', f'ours{suffix}'])


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_whole_classifier_there_and_back(suffix, tmp_path, monkeypatch):
    record = torch.load(DATA / 'cls6.pt', weights_only=True)
    source, ours, back = (tmp_path / file for file in ('in.pth', f'ours{suffix}', 'back.pth'))
    torch.save(record['checkpoint'], source)
    convert(monkeypatch, source, ours)
    convert(monkeypatch, ours, back, '--published')
    arch = dict(record['arch'])
    init_default_scope('mmpretrain')
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='VanillaNet', act_num=arch.pop('act_num'), arch=arch, out_indices=(3,)),
        head=dict(type='VanillaNetClsHead', num_classes=10, in_channels=64),
    )
    for file in (ours, back):
        net = MODELS.build(model).eval()
        with safe_loading(), torch.no_grad():
            load_checkpoint(net, str(file))
            difference = net(record['input']) - record['logits_act1']
        assert difference.norm() <= 1e-5 * record['logits_act1'].norm()


def test_deploy_form(tmp_path, monkeypatch):
    net = VanillaNet(dict(dims=[4] * 3, strides=[2, 2]), out_indices=[0, 1, 2], deploy=True).eval()
    torch.save(net.state_dict(), tmp_path / 'in.pth')
    convert(monkeypatch, tmp_path / 'in.pth', tmp_path / 'out.safetensors')
    other = VanillaNet(net.arch, out_indices=[0, 1, 2], deploy=True).eval()
    with safe_loading():
        load_checkpoint(other, str(tmp_path / 'out.safetensors'))
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(net(image)[-1], other(image)[-1])


@pytest.mark.parametrize(
    ('content', 'target', 'sentence'),
    [
        (dict(state_dict=dict(fc=torch.ones(2))), 'out.pth', 'holds no weights of a VanillaNet'),
        (dict(state_dict={}), 'out.onnx', 'expected a name in .pth or .safetensors'),
    ],
)
def test_mistakes(content, target, sentence, tmp_path, monkeypatch, capsys):
    torch.save(content, tmp_path / 'in.pth')
    with pytest.raises(SystemExit):
        convert(monkeypatch, tmp_path / 'in.pth', tmp_path / target)
    assert sentence in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['in.pth']


def test_a_file_that_would_differ_is_not_written(tmp_path, monkeypatch, capsys):
    net = VanillaNet(dict(dims=[4, 4], strides=[2]), out_indices=[1])
    net.stem1[0].weight.data.fill_(float('nan'))  # never equal to itself
    torch.save(net.state_dict(), tmp_path / 'in.pth')
    (tmp_path / 'out.pth').write_text('what was there before')
    with pytest.raises(SystemExit):
        convert(monkeypatch, tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'is not written, since its outputs would differ by nan' in capsys.readouterr().err
    assert (tmp_path / 'out.pth').read_text() == 'what was there before'
    assert sorted(os.listdir(tmp_path)) == ['in.pth', 'out.pth']
