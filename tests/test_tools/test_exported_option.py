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


def set_metadata(file, change):
    """Change the JSON in the metadata of a file."""
    onnx = pytest.importorskip('onnx')
    model = onnx.load(file)
    (entry,) = [each for each in model.metadata_props if each.key == 'mmvanilla']
    entry.value = json.dumps(dict(json.loads(entry.value), **change))
    onnx.save(model, file)


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
    set_metadata(file, dict(precision='int8'))  # as a quantized file
    out = tool_output('fps.py', f'{config}@{checkpoint}', file, *images, '--json', target)
    assert 'Weights as in the files' in out
    trained, written = json.loads(target.read_text())['rows']
    assert (trained['form'], written['form']) == ('fused', 'ONNX Runtime, int8')
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
    ('settings', 'named'),
    [
        (
            {'model.test_cfg.score_thr': 0.4, 'model.test_cfg.max_per_img': 5},
            'test_cfg.(score_thr|max_per_img) is ',
        ),
        ({'model.data_preprocessor.bgr_to_rgb': False}, 'preprocessing.channels is '),
    ],
)
def test_settings_that_the_file_does_not_follow_are_refused(
    settings, named, detector, command, shapes, run_tool, tool_output, tool_error, tmp_path
):
    """The settings are fixed in the graph of the file; each tool names the first difference."""
    config, checkpoint, file = detector
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(settings)
    cfg.dump(config)
    images = shapes / 'coco/val2017'
    assert re.search(named, tool_error(*command(config, file)))
    assert re.search(named, tool_error('predict.py', config, file, images, '--out', tmp_path))
    # A checkpoint has the thresholds of its config, so the file is refused beside it.
    assert re.search(named, tool_error(*command(config, checkpoint, '--compare', file)))
    options = ('--images', images, '--repeat', 1, '--warmup', 0)
    code, out, _ = run_tool('fps.py', config, file, *options)
    assert code == 1
    assert re.search(named, out)
    assert re.search(named, tool_output(*command(config, file, '--warn-only')))


def test_another_size_of_the_images_is_warned_of(detector, command, tool_output):
    config, _, file = detector
    cfg = Config.fromfile(config)
    (step,) = [s for s in cfg.test_dataloader.dataset.pipeline if s.type == 'Resize']
    step.scale = (96, 96)
    cfg.dump(config)
    assert re.search('sizes.steps.0.scale.0 is 160 in', tool_output(*command(config, file)))


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


@pytest.mark.slow
def test_an_exported_segmentor_slides_as_its_checkpoint(files, run_tool, tmp_path):
    slide = {'test_cfg': dict(mode='slide', crop_size=(64, 96), stride=(40, 50))}
    _, config, checkpoint = files('upernet', **slide)
    data = make_shapes(tmp_path / 'shapes', train=1, val=2, size=96) / 'ADEChallengeData2016'
    file = tmp_path / 'model.xml'
    code, _, error = run_tool(
        'deploy.py', config, checkpoint, '--data-root', data, '--openvino', file
    )
    assert code == 0, error
    options = ('--data-root', data, '--work-dir', tmp_path / 'work', '--compare', file)
    code, out, error = run_tool('test.py', config, checkpoint, *options)
    assert code == 0, error
    (row,) = [line for line in out.splitlines() if '│ mIoU ' in line]
    first, second, _ = (float(figure) for figure in re.findall(r'[-+]?\d+\.\d+', row))
    assert second == pytest.approx(first, abs=0.02)
    code, _, error = run_tool(
        *('test.py', config, file, *options[:-2]),
        *('--cfg-options', 'model.test_cfg.mode=whole'),
    )
    assert code == 2
    assert "test_cfg.mode is 'slide' in " in error
