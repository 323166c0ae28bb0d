"""A mistake on the command line gets one sentence, no traceback."""

import logging
import runpy
import sys
from pathlib import Path

import pytest

from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.accelerate import low_precision

ROOT = Path(__file__).parents[2]
SHAPES = 'configs/mask_rcnn_vanillanet13_shapes.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=2, val=1, size=64) / 'coco'


def run(capsys, monkeypatch, tmp_path, tool, *arguments):
    """Run a tool that must fail; return its error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # mmengine's logger outlives a test
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments), '--work-dir', str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(f'tools/{tool}', run_name='__main__')
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    (line,) = [line for line in error.splitlines() if f'{tool}: error: ' in line]
    return line


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['nothing.py'], "there is no config file 'nothing.py'"),
        (['README.md'], "'README.md' cannot be read as a config file"),
        ([SHAPES, '--data-root', 'nowhere'], 'nowhere/annotations/instances_train2017.json'),
        (
            [SHAPES, '--cfg-options', 'model.backbone.arch=14'],
            'arch of VanillaNet is 14, expected one',
        ),
        ([SHAPES, '--cfg-options', 'model.backbone.act_num=-1'], 'act_num is -1, expected'),
        ([SHAPES, '--cfg-options', 'model.backbone.out_indices=[3,2]'], 'out_indices is [3, 2]'),
        ([SHAPES, '--cfg-options', 'model.type=MaskRCMM'], 'MaskRCMM is not in the mmdet'),
        ([SHAPES, '--cfg-options', 'optim_wrapper.optimizer.momentum=1'], "argument 'momentum'"),
        (
            [SHAPES, '--cfg-options', 'model.backbone.arch=9'],
            'the backbone gives channels (512, 1024, 2048, 4096)',
        ),
        ([SHAPES, '--cfg-options', 'arch'], "got 'arch', expected KEY=VALUE"),
        ([SHAPES, '--launcher', 'pytorch'], '--launcher pytorch needs torchrun'),
        ([SHAPES, '--auto-scale-lr'], '--auto-scale-lr needs auto_scale_lr'),
        ([SHAPES, '--resume', 'missing.pth'], "there is no checkpoint file 'missing.pth'"),
        ([SHAPES, '--colour'], 'unrecognized arguments: --colour'),
    ],
)
def test_train(arguments, sentence, data, capsys, monkeypatch, tmp_path):
    if '--data-root' not in arguments:
        arguments = [*arguments, '--data-root', data]
    assert sentence in run(capsys, monkeypatch, tmp_path, 'train.py', *arguments)


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (None, 'there is no checkpoint file'),
        (b'', 'is an empty file'),
        (b'hello', 'is not a checkpoint'),
        (b'PK\3\4 and then nothing', 'truncated or corrupt'),
    ],
)
def test_test(content, sentence, data, capsys, monkeypatch, tmp_path):
    checkpoint = tmp_path / 'a.pth'
    if content is not None:
        checkpoint.write_bytes(content)
    line = run(capsys, monkeypatch, tmp_path, 'test.py', SHAPES, checkpoint, '--data-root', data)
    assert sentence in line


def test_out_must_be_a_pickle(capsys, monkeypatch, tmp_path):
    line = run(capsys, monkeypatch, tmp_path, 'test.py', SHAPES, 'a.pth', '--out', 'results.json')
    assert "--out is 'results.json', expected a name that ends in .pkl" in line


@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'predict.py', 'deploy.py'])
def test_help_says_that_a_config_is_run(tool, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    with pytest.raises(SystemExit):
        runpy.run_path(f'tools/{tool}', run_name='__main__')
    assert 'it is Python and is run' in ' '.join(capsys.readouterr().out.split())


def test_mixed_precision_needs_instructions(capsys, monkeypatch, tmp_path, data):
    monkeypatch.setattr(low_precision, 'has_fast_bfloat16', lambda: False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    line = run(capsys, monkeypatch, tmp_path, 'train.py', SHAPES, '--data-root', data, '--amp')
    assert '--amp is bfloat16 on the CPU, for which this processor has no instructions' in line
