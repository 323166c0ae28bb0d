"""Mistakes in command lines are one sentence; --debug shows the traceback."""

from pathlib import Path

import pytest

SHAPES = 'configs/mask_rcnn_vanillanet13_shapes.py'
TOOLS = sorted(path.name for path in Path('tools').glob('*.py'))
# A wrong command line for each tool.
WRONG = {
    'check_data.py': ['missing.py'],
    'convert_checkpoint.py': ['missing.pth', 'out.pth'],
    'deploy.py': ['missing.py', 'missing.pth', '--out', 'out.pth'],
    'fps.py': ['missing.py'],
    'import_data.py': ['missing', '--out', 'out'],
    'make_config.py': ['missing', '--recipe', 'mask_rcnn_vanillanet13', '--dry-run'],
    'make_shapes.py': ['--out', 'README.md/shapes', '--train', '-1'],
    'plot_log.py': ['missing', '--out', 'out.png'],
    'predict.py': ['missing.py', 'missing.pth', 'README.md'],
    'reproduce.py': ['figure2', '--out', 'README.md/out'],
    'test.py': ['missing.py', 'missing.pth'],
    'train.py': ['missing.py'],
}


def test_every_tool_with_arguments_is_tried():
    assert set(TOOLS) - set(WRONG) == {'env.py'}


@pytest.mark.parametrize('tool', WRONG)
def test_a_mistake_is_one_sentence_and_with_debug_its_traceback(tool, run_tool, tool_error):
    tool_error(tool, *WRONG[tool])
    with pytest.raises((OSError, ValueError)):
        run_tool(tool, *WRONG[tool], '--debug')


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (['model.backbone.arch=dict(dims=[8,8],strides=[2])'], 'arch=dict(dims'),
        (['model.neck.in_channels=[16,16'], '[16,16'),
        (['model.neck.in_channels=16,16]'], '16,16]'),
        (['model.neck.in_channels=(16,16'], '(16,16'),
        (['model.backbone.act_num=3', 'model..arch=9'], "'model..arch=9'"),
        (['=3'], "'=3'"),
        (['arch'], "'arch'"),
        (['model.backbone.act_num.x=3'], 'model.backbone.act_num.x'),
        (['train_pipeline.99.type=Resize'], 'train_pipeline.99.type'),
        (['train_pipeline.first.type=Resize'], 'train_pipeline.first.type'),
        (['custom_hooks.0=3'], 'custom_hooks.0'),
    ],
)
def test_a_setting_that_cannot_be_read_or_placed_is_named(options, named, tool_error):
    line = tool_error('train.py', SHAPES, '--cfg-options', *options)
    assert named in line
    assert len(line) < 600  # mmengine quotes whole lists


def test_a_config_with_a_fault_names_its_cause(tool_error, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('model = dict(type=1 / 0)\n')
    error = tool_error('train.py', config)
    assert 'ZeroDivisionError' in error
