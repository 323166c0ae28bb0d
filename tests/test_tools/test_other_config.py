"""Every tool refuses a checkpoint of another config."""

import pytest
import torch
from mmengine.config import Config

from mmvanilla import UserError
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.predict import make_predictor

NAMES = ['circle', 'square', 'triangle', 'star', 'cross', 'crescent']


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes'), train=1, val=1, size=64) / 'coco'


@pytest.fixture
def permuted(files):
    """Return a config and a checkpoint with two classes swapped."""
    _, config, checkpoint = files('retinanet')
    content = torch.load(checkpoint)
    classes = ('square', 'circle', *NAMES[2:])
    content['meta'] = dict(dataset_meta=dict(classes=classes), cfg=Config.fromfile(config).dump())
    torch.save(content, checkpoint)
    return config, checkpoint


@pytest.fixture
def command(permuted, shapes, tmp_path):
    """Return the arguments of each tool for the checkpoint."""
    config, checkpoint = permuted
    image = next((shapes / 'val2017').iterdir())
    data = ('--data-root', shapes)
    return {
        'test.py': (config, checkpoint, *data, '--work-dir', tmp_path / 'work'),
        'predict.py': (config, checkpoint, image, '--out', tmp_path / 'out'),
        'deploy.py': (config, checkpoint, *data, '--out', tmp_path / 'fused.pth'),
        'fps.py': (f'{config}@{checkpoint}', '--shape', 64, 64, '--repeat', 1, '--warmup', 0),
    }


@pytest.mark.usefixtures('forked')
@pytest.mark.parametrize('tool', ['test.py', 'predict.py', 'deploy.py', 'fps.py'])
def test_permuted_classes_are_refused_or_a_warning(tool, command, run_tool, tool_output, tmp_path):
    code, out, error = run_tool(tool, *command[tool])
    assert code in (1, 2)
    said = ' '.join((out + error).split())
    assert "class 0 is 'square' in checkpoint" in said
    assert "and 'circle' in the config" in said
    assert '--warn-only' in said
    assert 'Traceback' not in said
    assert not (tmp_path / 'fused.pth').exists()
    out = tool_output(tool, *command[tool], '--warn-only')
    if tool != 'fps.py':  # it measures in another process without a log
        assert out.count("class 0 is 'square' in checkpoint") == 1


def test_permuted_classes_in_python(permuted):
    config, checkpoint = permuted
    with pytest.raises(UserError, match="class 0 is 'square' in checkpoint"):
        make_predictor(Config.fromfile(config), str(checkpoint))
    make_predictor(Config.fromfile(config), str(checkpoint), warn_only=True)


def test_both_files_of_a_comparison_are_looked_at(permuted, files, command, tool_error, tmp_path):
    config, checkpoint = permuted
    good = checkpoint.rename(tmp_path / 'good.pth')
    content = torch.load(good)
    torch.save(content, checkpoint)
    torch.save(dict(content, meta={}), good)
    rest = command['test.py'][2:]
    error = tool_error('test.py', config, good, '--compare', checkpoint, *rest)
    assert 'trained.pth' in error
    assert "class 0 is 'square'" in error


def test_files_that_are_written_keep_the_record(
    permuted, command, tool_output, tool_error, tmp_path
):
    """The record has the classes of the weights, not of the config."""
    tool_output('deploy.py', *command['deploy.py'], '--warn-only')
    record = torch.load(tmp_path / 'fused.pth')['meta']['record']
    assert record['classes'][:2] == ['square', 'circle']
    assert record['settings']['test_cfg.score_thr'] == 0.05
    config, _, *rest = command['predict.py']
    error = tool_error('predict.py', config, tmp_path / 'fused.pth', *rest)
    assert "class 0 is 'square'" in error
