"""Fused checkpoints and exports of tools/deploy.py."""

import hashlib
import re

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

import mmvanilla


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_fused_checkpoint_loads_into_a_deploy_net(files, small_config, tool_output, tmp_path):
    model, config, checkpoint = files('upernet')
    out = tool_output('deploy.py', config, checkpoint, '--out', tmp_path / 'new/fused.pth')
    assert listing(tmp_path / 'new') == ['fused.pth']
    printed = re.search(r'largest difference (\S+), relative (\S+)', out)
    assert 0 < float(printed[1]) < 1e-2
    assert 0 < float(printed[2]) < 1e-4

    backbone = small_config('upernet').model.backbone
    net = MODELS.build(dict(backbone, deploy=True))
    state = torch.load(tmp_path / 'new/fused.pth', weights_only=False)['state_dict']
    prefix = 'backbone.'
    net.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(net.eval()(image), model.backbone(image), strict=True):
            assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize('deploy', [False, True])
def test_the_form_of_a_checkpoint_counts(deploy, files, tool_output, tmp_path):
    _, config, checkpoint = files('retinanet', deploy=not deploy)
    fused = tmp_path / 'fused.pth'
    tool_output('deploy.py', config, checkpoint, '--out', fused)
    source = fused if deploy else checkpoint
    out = tool_output('deploy.py', config, source, '--out', tmp_path / 'again.pth')
    form = 'deploy' if deploy else 'training'
    assert f'is in {form} form; the model is built with deploy={deploy}' in out
    first, again = (
        torch.load(file, weights_only=False)['state_dict']
        for file in (fused, tmp_path / 'again.pth')
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ('options', 'arguments', 'sentence'),
    [
        ({}, ['--tolerance', '0'], r'is not written: largest difference \S+, relative \S+, exp'),
        (dict(act_learn=0.5), [], r'act_learn of backbone is 0\.5'),
    ],
)
def test_nothing_is_written_of_a_net_that_cannot_be_fused(
    options, arguments, sentence, files, tool_error, tmp_path
):
    _, config, checkpoint = files('upernet', **options)
    out = tmp_path / 'out'
    out.mkdir()
    error = tool_error('deploy.py', config, checkpoint, '--out', out / 'fused.pth', *arguments)
    assert re.search(sentence, error)
    assert not listing(out)


@pytest.mark.parametrize('flag', ['--out', '--onnx', '--openvino', '--export'])
def test_a_folder_that_cannot_be_written(flag, files, tool_error, tmp_path):
    _, config, checkpoint = files('upernet')
    suffix = {'--out': 'pth', '--onnx': 'onnx', '--openvino': 'xml', '--export': 'pt2'}[flag]
    (tmp_path / 'file').write_text('')
    before = listing(tmp_path)
    error = tool_error('deploy.py', config, checkpoint, flag, tmp_path / f'file/model.{suffix}')
    assert 'cannot be written' in error
    assert listing(tmp_path) == before


def test_a_suffix_of_another_format(files, tool_error, tmp_path):
    _, config, checkpoint = files('upernet')
    error = tool_error('deploy.py', config, checkpoint, '--onnx', tmp_path / 'model.pth')
    assert 'expected a name that ends in .onnx' in error


@pytest.mark.usefixtures('exporting')
def test_an_export_runs_elsewhere(files, tool_output, tmp_path):
    import onnxruntime

    model, config, checkpoint = files('upernet')
    file = tmp_path / 'model.onnx'
    out = tool_output('deploy.py', config, checkpoint, '--onnx', file, '--label-map')
    assert re.search(r'model\.onnx \([\d.]+ MiB\): [\d.]+ s an image', out)
    assert 'of the pixels with the same label' in out

    image = torch.rand(3, 96, 128) * 255
    props = onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map
    assert props['checkpoint.sha256'] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert props['classes'].splitlines()[:2] == ['background', 'circle']
    assert props['resize.scale'] == '160 160'
    assert (props['precision'], props['checked']) == ('fp32', 'true')
    assert props['package'] == f'mmvanilla {mmvanilla.__version__}'

    (found,) = onnxruntime.InferenceSession(str(file)).run(None, {'image': image[None].numpy()})
    with torch.no_grad():
        (expected,) = model.test_step(dict(inputs=[image]))
    assert np.mean(found == expected.pred_sem_seg.data.numpy()) > 0.999
