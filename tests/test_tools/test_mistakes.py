"""A mistake on the command line gets one sentence, no traceback."""

import pytest

from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.accelerate import low_precision

SHAPES = 'configs/mask_rcnn_vanillanet13_shapes.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=2, val=1, size=64) / 'coco'


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
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
        ([SHAPES, '--launcher', 'pytorch'], '--launcher pytorch needs torchrun'),
        ([SHAPES, '--auto-scale-lr'], '--auto-scale-lr needs auto_scale_lr'),
        ([SHAPES, '--resume', 'missing.pth'], "there is no checkpoint file 'missing.pth'"),
        ([SHAPES, '--colour'], 'unrecognized arguments: --colour'),
    ],
)
def test_train(arguments, sentence, data, tool_error, tmp_path):
    if '--data-root' not in arguments:
        arguments = [*arguments, '--data-root', data]
    assert sentence in tool_error('train.py', *arguments, '--work-dir', tmp_path / 'work')


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (None, 'there is no checkpoint file'),
        (b'', 'is an empty file'),
        (b'hello', 'is not a checkpoint'),
        (b'PK\3\4 and then nothing', 'truncated or corrupt'),
    ],
)
def test_test(content, sentence, data, tool_error, tmp_path):
    checkpoint = tmp_path / 'a.pth'
    if content is not None:
        checkpoint.write_bytes(content)
    assert sentence in tool_error('test.py', SHAPES, checkpoint, '--data-root', data)


def test_out_must_be_a_pickle(tool_error):
    error = tool_error('test.py', SHAPES, 'a.pth', '--out', 'results.json')
    assert "--out is 'results.json'" in error


def test_mixed_precision_needs_instructions(monkeypatch, tool_error, data):
    monkeypatch.setattr(low_precision, 'has_fast_bfloat16', lambda: False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert '--amp is bfloat16' in tool_error('train.py', SHAPES, '--data-root', data, '--amp')
