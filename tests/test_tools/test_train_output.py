"""What is seen of a training: a bar on a terminal, lines elsewhere, scalars in TensorBoard."""

import json
import re
import sys

import pytest

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
    # mmengine keeps a visualizer and a logger of each name as long as the process lives; trainings
    # of one config that begin in the same second have the same name.
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


def test_tensorboard_is_missing(arguments, run_tool, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    code, _, error = run_tool('train.py', *arguments, '--tensorboard')
    assert code == 2
    assert 'pip install tensorboard' in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / 'work').exists()
