"""Published weights, converted to this package's files and back."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmvanilla import VanillaNet, safe_loading

DATA = Path(__file__).parents[1] / 'data'


@pytest.fixture
def convert(run_tool, tmp_path):
    """Convert a file in the folder of the test; return the exit code and what is printed."""

    def run(source, target, *options):
        files = tmp_path / source, tmp_path / target
        code, out, error = run_tool('convert_checkpoint.py', *files, *options)
        return code, out + error

    return run


def load(net, file):
    with safe_loading():
        load_checkpoint(net, str(file))
    return net.eval()


def build_classifier(arch, act_num):
    init_default_scope('mmpretrain')
    backbone = dict(type='VanillaNet', act_num=act_num, arch=arch, out_indices=(3,))
    head = dict(type='VanillaNetClsHead', num_classes=10, in_channels=64)
    return MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))


@torch.no_grad()
def assert_outputs(record, file):
    """Compare features, and logits of a whole classifier, with those of the authors' code."""
    arch = dict(record['arch'])
    act_num = arch.pop('act_num')
    net = load(VanillaNet(act_num=act_num, arch=arch), file)
    found = list(net(record['input']))
    expected = list(record['features' if 'features' in record else 'features_act1'])
    if 'logits_act1' in record:
        found.append(load(build_classifier(arch, act_num), file)(record['input']))
        expected.append(record['logits_act1'])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('name', ['cls6', 'det13', 'ada13'])
def test_there_and_back(name, suffix, convert, tmp_path):
    record = torch.load(DATA / f'{name}.pt', weights_only=True)
    published = record['checkpoint']
    torch.save(published, tmp_path / 'in.pth')
    assert 'largest difference of outputs 0' in convert('in.pth', f'ours{suffix}')[1]
    assert convert(f'ours{suffix}', 'back.pth', '--published')[0] == 0
    for file in (f'ours{suffix}', 'back.pth'):
        assert_outputs(record, tmp_path / file)

    original = published.get('model_ema') or published.get('model') or published['state_dict']
    returned = torch.load(tmp_path / 'back.pth', weights_only=True)
    returned = returned.get('model') or returned['state_dict']
    assert returned.keys() == original.keys()  # with those of the head
    assert all(torch.equal(returned[key], original[key]) for key in original)
    assert sorted(os.listdir(tmp_path)) == sorted(['back.pth', 'in.pth', f'ours{suffix}'])


def test_deploy_form(convert, tmp_path):
    net = VanillaNet(dict(dims=[4] * 3, strides=[2, 2]), out_indices=[0, 1, 2], deploy=True).eval()
    torch.save(net.state_dict(), tmp_path / 'in.pth')
    assert convert('in.pth', 'out.safetensors')[0] == 0
    other = VanillaNet(net.arch, out_indices=[0, 1, 2], deploy=True)
    load(other, tmp_path / 'out.safetensors')
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(net(image)[-1], other(image)[-1])


@pytest.mark.parametrize(
    ('content', 'target', 'sentence'),
    [
        (dict(state_dict=dict(fc=torch.ones(2))), 'out.pth', 'holds no weights of a VanillaNet'),
        (dict(state_dict={}), 'out.onnx', 'expected a name in .pth or .safetensors'),
    ],
)
def test_mistakes(content, target, sentence, convert, tmp_path):
    torch.save(content, tmp_path / 'in.pth')
    code, printed = convert('in.pth', target)
    assert code == 2
    assert sentence in printed
    assert os.listdir(tmp_path) == ['in.pth']


def test_a_file_that_would_differ_is_not_written(convert, tmp_path):
    net = VanillaNet(dict(dims=[4, 4], strides=[2]), out_indices=[1])
    net.stem1[0].weight.data.fill_(float('nan'))  # never equal to itself
    torch.save(net.state_dict(), tmp_path / 'in.pth')
    (tmp_path / 'out.pth').write_text('what was there before')
    code, printed = convert('in.pth', 'out.pth')
    assert code == 2
    assert 'differ by nan' in printed
    assert (tmp_path / 'out.pth').read_text() == 'what was there before'
    assert sorted(os.listdir(tmp_path)) == ['in.pth', 'out.pth']
