"""Output of a training: a bar on a terminal, else lines; scalars in TensorBoard."""

import json
import re
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla.datasets import make_shapes

CONFIG = 'tests/data/tiny_shapes.py'


@pytest.fixture
def arguments(tmp_path):
    data = make_shapes(tmp_path / 'shapes', train=6, val=2, size=64) / 'coco'
    return CONFIG, '--data-root', data, '--work-dir', tmp_path / 'work'


def log_lines(work):
    (log,) = work.glob('*/*.log')
    return [line for line in log.read_text().splitlines() if 'Epoch(train)' in line]


def test_a_terminal(arguments, run_tool, watch, tmp_path):
    options = 'experiment_name=shown', 'custom_hooks.2.end=4'
    with watch() as seen:
        code, *_ = run_tool('train.py', *arguments, '--cfg-options', *options)
    assert code == 0
    shown = re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', seen[0])
    assert 'Epoch(train)' not in shown
    lines = log_lines(tmp_path / 'work')
    assert len(lines) == 6
    bar, values = shown.splitlines()[-2:]
    assert re.match(r'epoch 2/2 \S+ 6/6 0:00:00', bar)
    names = 'loss', 'loss_cls', 'loss_bbox', 'act_learn'
    logged = [re.search(rf' {name}: (\S+)', lines[-1])[1] for name in names]
    assert values.split() == [text for pair in zip(names, logged, strict=True) for text in pair]
    assert logged[-1] == '1.0000'


def test_a_pipe_and_tensorboard(arguments, run_tool, watch, tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    # mmengine keeps visualizers and loggers by name; the default name is the time in seconds.
    options = 'visualizer.name=tensorboard', 'experiment_name=piped', 'custom_hooks.2.end=4'
    with watch('pipe') as seen:
        code, *_ = run_tool('train.py', *arguments, '--tensorboard', '--cfg-options', *options)
    assert code == 0
    assert seen[0].count('Epoch(train)') == 6
    assert 'epoch 2/2' not in seen[0]
    (file,) = tmp_path.glob('work/*/vis_data/scalars.json')
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    events = accumulator.EventAccumulator(str(file.parent)).Reload()
    for name in ('loss', 'loss_cls', 'loss_bbox', 'lr', 'act_learn'):
        logged = [(row['step'], row[name]) for row in rows if name in row]
        assert len(logged) == 6
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in logged]


def test_tensorboard_is_missing(arguments, tool_error, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    options = 'visualizer.name=missing', 'experiment_name=missing'
    error = tool_error('train.py', *arguments, '--tensorboard', '--cfg-options', *options)
    assert re.search('pip install .*tensorboard', error)
    assert not list(tmp_path.glob('work/*.pth'))


def test_a_config_on_mmdets_base_begins_from_its_checkpoint(arguments, tool_output, tmp_path):
    """--resume in a new folder starts from load_from."""
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook'))
    cfg = Config.fromfile(CONFIG)
    cfg.default_hooks = hooks
    cfg.custom_hooks = []
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'start.pth')
    cfg.load_from = str(tmp_path / 'start.pth')
    cfg.dump(tmp_path / 'mine.py')
    options = 'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=0', 'experiment_name=mine'
    out = tool_output(
        *('train.py', tmp_path / 'mine.py', *arguments[1:], '--resume', '--cfg-options', *options)
    )
    assert f'Load checkpoint from {cfg.load_from}' in out
    assert re.search('Added as in the recipes of mmvanilla: .*StopOnSignalHook', out)
    saved = torch.load(tmp_path / 'work/epoch_1.pth', weights_only=True)
    begun = torch.load(cfg.load_from, weights_only=True)['state_dict']
    name = 'backbone.stem1.0.weight'
    torch.testing.assert_close(saved['state_dict'][name], begun[name])
