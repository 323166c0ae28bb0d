"""A training that is stopped, or loses its data, can be resumed."""

import json
import os
import shutil
import signal

import pytest
import torch

from mmvanilla.datasets import make_shapes
from mmvanilla.safe_load import load_from_local

CONFIG = 'tests/data/tiny_shapes.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, train=12, val=2, size=64) / 'coco'


def logged(work_dir):
    """Return losses, learning rates and act_learn of all runs in a work dir."""
    rows = []
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        rows += [json.loads(line) for line in file.read_text().splitlines()]
    keys = ('step', 'loss', 'loss_cls', 'loss_bbox', 'lr', 'act_learn', 'grad_norm')
    return [[row[key] for key in keys] for row in rows if 'loss' in row]


def assert_same(one, other):
    """Assert that two checkpoints are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


@pytest.mark.slow
def test_terminated_and_resumed(data, start_tool, tmp_path):
    common = [CONFIG, '--data-root', data, '--work-dir']
    sparse = ['--cfg-options', 'default_hooks.checkpoint.interval=100']
    code, printed = start_tool('train.py', *common, tmp_path / 'whole', *sparse).finish()
    assert code == 0, printed[-3000:]

    run = start_tool('train.py', *common, tmp_path / 'parts', *sparse)
    run.read_until('[1][3/6]')
    os.killpg(run.pid, signal.SIGTERM)  # Slurm signals the workers as well
    code, printed = run.finish()
    assert code == 143
    assert 'SIGTERM: saved' in printed
    assert [file.name for file in (tmp_path / 'parts').glob('*.pth')] == ['interrupted.pth']

    code, printed = start_tool('train.py', *common, tmp_path / 'parts', '--resume').finish()
    assert code == 0, printed[-3000:]
    assert 'parts/interrupted.pth' in printed
    rows = logged(tmp_path / 'parts')
    assert rows == logged(tmp_path / 'whole')
    assert [row[-2] for row in rows] == [i / 8 for i in range(8)] + [1.0] * 4
    ends = [load_from_local(str(tmp_path / part / 'iter_12.pth')) for part in ('whole', 'parts')]
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ends[0][key], ends[1][key])
    assert not torch.equal(
        ends[0]['state_dict']['bbox_head.retina_cls.weight'],
        ends[0]['ema_state_dict']['module.bbox_head.retina_cls.weight'],
    )


@pytest.mark.slow
def test_vanished_data(data, start_tool, tmp_path):
    shutil.copytree(data, tmp_path / 'data')
    options = ['--cfg-options', 'train_cfg.max_epochs=100']
    run = start_tool(
        'train.py', CONFIG, '--data-root', tmp_path / 'data', '--work-dir', tmp_path, *options
    )
    run.read_until('[1][2/6]')
    shutil.rmtree(tmp_path / 'data/train2017')
    code, printed = run.finish()
    assert code == 2
    assert 'Traceback' not in printed
    (line,) = [line for line in printed.splitlines() if 'train.py: error: ' in line]
    last = (tmp_path / 'last_checkpoint').read_text()
    assert 'does not exist' in line
    assert 'data/train2017/' in line
    assert f"the last good checkpoint is '{last}', go on from it with --resume" in line
