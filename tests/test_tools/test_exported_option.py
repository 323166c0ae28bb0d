"""Exported files instead of checkpoints in tools/test.py, predict.py and fps.py."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from mmengine.config import Config

from mmvanilla import UserError
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.export import OpenedModel
from mmvanilla.deploy.predict import ExportedModel

pytestmark = pytest.mark.usefixtures('exporting', 'forked')
# The time of an export grows with levels and convolutions.
SMALL = {
    'neck.num_outs': 3,
    'bbox_head.anchor_generator.strides': [8, 16, 32],
    'bbox_head.stacked_convs': 1,
}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes'), train=1, val=2, size=96)


@pytest.fixture
def detector(files, tool_output, shapes, once, tmp_path):
    """Return config, checkpoint and exported file of a detector."""
    _, config, checkpoint = files('retinanet', **SMALL)

    def write(folder):
        arguments = ('--data-root', shapes / 'coco', '--onnx', folder / 'model.onnx')
        tool_output('deploy.py', config, checkpoint, *arguments)

    written = once('exported_retinanet', write) / 'model.onnx'
    return config, checkpoint, Path(shutil.copy(written, tmp_path))


@pytest.fixture
def command(shapes, tmp_path):
    """Return a command line of tools/test.py in batches of two."""

    def words(config, file, *options):
        options = (*options, '--cfg-options', 'test_dataloader.batch_size=2')
        common = ('--data-root', shapes / 'coco', '--work-dir', tmp_path / 'work')
        return 'test.py', config, file, *common, *options

    return words


def test_an_exported_detector_has_the_metrics_of_its_checkpoint(detector, command, tool_output):
    config, checkpoint, file = detector
    out = tool_output(*command(config, file, '--compare', checkpoint))
    assert out.count('Epoch(test) [2/2]') == 2  # one by one, although the batch size is 2
    rows = [re.findall(r'[-+]?\d+\.\d+', line) for line in out.splitlines() if '│ coco/' in line]
    assert len(rows) == 6
    for first, second, difference in rows:
        assert float(second) == pytest.approx(float(first), abs=1e-3)
        assert float(difference) == pytest.approx(float(second) - float(first), abs=1e-3)


def test_predictions_of_an_exported_detector_are_drawn(detector, command, tool_output, tmp_path):
    config, _, file = detector
    tool_output(*command(config, file, '--show-dir', tmp_path / 'pictures'))
    pictures = list((tmp_path / 'pictures').rglob('*.jpg'))
    assert len(pictures) == 2


@pytest.mark.parametrize(
    ('file', 'options', 'sentence'),
    [
        ('model.onnx', ['--tta'], "--tta needs a checkpoint, and '.*model.onnx' is exported"),
        ('model.onnx', ['--accelerate'], '--accelerate needs a checkpoint'),
        ('model.onnx', ['--precision', 'bf16'], 'precision is bf16 .*ONNX Runtime'),
        ('trained.pth', ['--precision', 'auto'], "--precision is auto.* '.*trained.pth' is none"),
        ('model.onnx', ['--compare', 'trained.pth', '--out', 'a.pkl'], 'results of one model'),
        ('no.onnx', [], "there is no exported file '.*no.onnx'"),
    ],
)
def test_wrong_options_are_refused(file, options, sentence, detector, command, tool_error):
    config, checkpoint, exported = detector
    options = [checkpoint if option == 'trained.pth' else option for option in options]
    file = checkpoint if file == 'trained.pth' else exported.with_name(file)
    assert re.search(sentence, tool_error(*command(config, file, *options)))


def test_the_speed_of_a_checkpoint_and_of_its_exported_file(detector, shapes, tool_output):
    config, checkpoint, file = detector
    images = ('--images', shapes / 'coco/val2017', '--repeat', 1, '--warmup', 0)
    target = file.with_name('speed.json')
    out = tool_output('fps.py', f'{config}@{checkpoint}', file, *images, '--json', target)
    assert 'Weights as in the files' in out
    trained, written = json.loads(target.read_text())['rows']
    assert (trained['form'], written['form']) == ('fused', 'ONNX Runtime, fp32')
    assert written['detections'] == trained['detections'] > 0
    assert trained['counts']
    assert not written['counts']


def test_other_tools_refuse_what_does_not_fit(detector, shapes, tool_error):
    config, checkpoint, file = detector
    assert 'give its config' in tool_error('fps.py', file, config, '--images', shapes)
    options = ('--precision', 'auto')
    assert 'exported files' in tool_error('predict.py', config, checkpoint, 'README.md', *options)


@pytest.mark.parametrize('first', ['exported', 'trained'])
def test_a_precision_is_for_the_exported_file_of_a_comparison(
    first, detector, command, tool_output
):
    config, checkpoint, file = detector
    pair = (file, checkpoint) if first == 'exported' else (checkpoint, file)
    options = ('--compare', pair[1], '--precision', 'auto')
    assert tool_output(*command(config, pair[0], *options)).count('│ coco/') == 6


def test_other_classes_are_refused(detector, command, tool_error):
    config, _, file = detector
    cfg = Config.fromfile(config)
    classes = list(cfg.test_dataloader.dataset.metainfo.classes)
    cfg.test_dataloader.dataset.metainfo.classes = [classes[0], 'disc', *classes[2:]]
    cfg.dump(config)
    error = tool_error(*command(config, file))
    assert re.search(f"class 1 is {classes[1]!r} in .*model.onnx' and 'disc' in", error)


@pytest.mark.parametrize(
    ('setting', 'value', 'named'),
    [
        ('model.test_cfg.score_thr', 0.5, 'test_cfg.score_thr is 0.05'),
        ('model.data_preprocessor.std', [1, 1, 1], 'preprocessing.std.0'),
    ],
)
def test_settings_that_the_file_does_not_follow_are_refused(
    setting, value, named, detector, command, tool_output, tool_error
):
    """The settings are fixed in the graph of the file."""
    config, _, file = detector
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({setting: value})
    cfg.dump(config)
    assert named in tool_error(*command(config, file))
    assert named in tool_output(*command(config, file, '--warn-only'))


@pytest.mark.parametrize(
    ('written', 'expected', 'same'),
    [
        (None, ['a'], True),
        (['a'], None, True),
        (['a', 'b'], ('a', 'b'), True),
        (['a', 'b'], ['a'], False),
        (['a', 'b'], ['b', 'a'], False),
    ],
)
def test_classes_are_compared_where_both_are_known(written, expected, same):
    """Older files hold no record."""
    for details in (dict(classes=written), dict(record=dict(classes=written, settings={}))):
        with nullcontext() if same else pytest.raises(UserError):
            ExportedModel(OpenedModel(dict, (), details), {}, expected)
        ExportedModel(OpenedModel(dict, (), details), {}, expected, warn_only=True)
