"""--accelerate: speed, predictions near the fused net's, refusals."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch

from mmvanilla.datasets import make_shapes
from mmvanilla.datasets.shapes import draw_scene


def test_fps_compares_the_fused_net_with_the_accelerated_one(
    small_config, tool_output, forked, tmp_path
):
    small_config('mask_rcnn').dump(tmp_path / 'net.py')
    out = tmp_path / 'speed.json'
    tool_output(
        *('fps.py', tmp_path / 'net.py', '--fuse', '--accelerate', '--json', out),
        *('--shape', 64, 96, '--repeat', 2, '--warmup', 1),
    )
    rows = json.loads(out.read_text())['rows']
    assert [row['form'] for row in rows] == ['fused', 'fused and accelerated']
    assert all(row['detections'] == 100 for row in rows)


def test_fps_says_what_has_no_accelerated_form(small_config, run_tool, forked, tmp_path):
    cfg = small_config('mask_rcnn')
    cfg.model.backbone = dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3))
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    cfg.dump(tmp_path / 'net.py')
    code, printed, _ = run_tool(
        *('fps.py', tmp_path / 'net.py', '--accelerate', '--shape', 64, 96, '--repeat', 1)
    )
    assert code == 1
    assert 'ResNet has no accelerated form' in ' '.join(printed.split())


def test_predictions_are_near_those_of_the_fused_net(files, tool_output, tmp_path):
    _, config, checkpoint = files('upernet')
    cv2.imwrite(str(tmp_path / 'a.png'), draw_scene(np.random.default_rng(0), 96).image)
    labels = []
    for options in ((), ('--accelerate',)):
        out = tmp_path / f'out{len(options)}'
        tool_output(*('predict.py', config, checkpoint, tmp_path / 'a.png', '--out', out, *options))
        maps = sorted(out.rglob('*.png'))
        assert maps
        labels.append([cv2.imread(str(each), cv2.IMREAD_UNCHANGED) for each in maps])
    agree = [(a == b).mean() for a, b in zip(*labels, strict=True)]
    assert min(agree) > 0.9


def test_testing_accelerated_gives_nearly_the_same(files, run_test, tmp_path):
    _, config, checkpoint = files('upernet')
    data = make_shapes(tmp_path / 'shapes', train=1, val=2, size=96) / 'ADEChallengeData2016'
    predictions = []
    for options in ((), ('--accelerate',)):
        file = tmp_path / 'out.pkl'
        out = run_test(config, checkpoint, data, '--out', file, *options)
        assert ('The accelerated model is tested' in out) == bool(options)
        predictions.append(pickle.loads(file.read_bytes()))
    for fused, fast in zip(*predictions, strict=True):
        labels = (p['pred_sem_seg']['data'] for p in (fused, fast))
        assert torch.eq(*labels).double().mean() > 0.95


@pytest.mark.parametrize('tool', ['test.py', 'predict.py'])
def test_no_fuse_contradicts_it(tool, tool_error):
    rest = ['image.png'] if tool == 'predict.py' else []
    error = tool_error(tool, 'a.py', 'a.pth', *rest, '--accelerate', '--no-fuse')
    assert '--accelerate fuses the net' in error


def test_an_exported_file_is_not_accelerated(files, tool_error, tmp_path):
    _, config, _ = files('upernet')
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((64, 64, 3), np.uint8))
    error = tool_error(
        *('predict.py', config, tmp_path / 'a.onnx', tmp_path / 'a.png', '--accelerate'),
        *('--out', tmp_path / 'out'),
    )
    assert 'accelerate a checkpoint' in error


def test_a_half_trained_net_is_not_accelerated(files, tool_error, tmp_path):
    _, config, checkpoint = files('mask_rcnn', act_learn=0.5)
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((64, 64, 3), np.uint8))
    error = tool_error(
        *('predict.py', config, checkpoint, tmp_path / 'a.png', '--accelerate'),
        *('--out', tmp_path / 'out'),
    )
    assert 'act_learn' in error
