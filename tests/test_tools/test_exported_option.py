"""Exported files instead of checkpoints in tools/test.py, predict.py and fps.py."""

import json
import re
import shutil
from contextlib import nullcontext

import pytest
from mmengine.config import Config

from mmvanilla import UserError
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.export import OpenedModel
from mmvanilla.deploy.predict import ExportedModel

pytestmark = pytest.mark.usefixtures('exporting')


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes'), train=1, val=2, size=96)


@pytest.fixture
def detector(files, run_tool, shapes, tmp_path):
    """Return config, checkpoint and exported file of a detector."""
    _, config, checkpoint = files('retinanet')
    written, file = shapes / 'model.onnx', tmp_path / 'model.onnx'
    if not written.exists():
        arguments = ('--data-root', shapes / 'coco', '--onnx', written)
        code, _, error = run_tool('deploy.py', config, checkpoint, *arguments)
        assert code == 0, error
    return config, checkpoint, shutil.copy(written, file)


@pytest.fixture
def test(run_tool, shapes, tmp_path):
    """Run tools/test.py."""

    def run(config, file, *arguments, data=shapes / 'coco'):
        return run_tool(
            *('test.py', config, file, '--data-root', data, '--work-dir', tmp_path / 'work'),
            *(*arguments, '--cfg-options', 'test_dataloader.num_workers=0'),
            *('test_dataloader.persistent_workers=False', 'test_dataloader.batch_size=2'),
        )

    return run


def test_an_exported_detector_has_the_metrics_of_its_checkpoint(detector, test, run_tool, shapes):
    config, checkpoint, file = detector
    code, out, error = test(config, file, '--compare', checkpoint)
    assert code == 0, error
    assert out.count('Epoch(test) [2/2]') == 2  # one by one, although the batch size is 2
    rows = [re.findall(r'[-+]?\d+\.\d+', line) for line in out.splitlines() if '│ coco/' in line]
    assert len(rows) == 6
    for first, second, difference in rows:
        assert float(second) == pytest.approx(float(first), abs=1e-3)
        assert float(difference) == pytest.approx(float(second) - float(first), abs=1e-3)

    for name, options, sentence in [
        (file, ['--tta'], "--tta needs a checkpoint, and '.*model.onnx' is exported"),
        (file, ['--accelerate'], "--accelerate needs a checkpoint, and '.*model.onnx' is exported"),
        (file, ['--precision', 'bf16'], 'precision is bf16 .*ONNX Runtime computes in the types'),
        (checkpoint, ['--precision', 'auto'], "--precision is auto.* '.*trained.pth' is none"),
        (file, ['--compare', checkpoint, '--out', 'a.pkl'], 'results of one model; leave out'),
        (file.with_name('no.onnx'), [], "there is no exported file '.*no.onnx'"),
    ]:
        code, _, error = test(config, name, *options)
        assert code == 2
        assert re.search(sentence, error.splitlines()[-1]), error
        assert 'Traceback' not in error

    # A checkpoint and exported files in one run, and one of other classes.
    images = ('--images', shapes / 'coco/val2017', '--repeat', 1, '--warmup', 0)
    target = file.with_name('speed.json')
    arguments = (f'{config}@{checkpoint}', file, *images, '--json', target)
    code, out, error = run_tool('fps.py', *arguments)
    assert code == 0, error
    assert 'Weights as in the files' in out
    trained, written = json.loads(target.read_text())['rows']
    assert (trained['form'], written['form']) == ('fused', 'ONNX Runtime, fp32')
    assert written['detections'] == trained['detections'] > 0
    assert trained['counts']
    assert not written['counts']
    code, _, error = run_tool('fps.py', file, config, *images)
    assert code == 2
    assert "model.onnx' is exported; name the config that it is of before it" in error
    code, _, error = run_tool('predict.py', config, checkpoint, 'README.md', '--precision', 'auto')
    assert code == 2
    assert 'which is for exported files' in error


@pytest.mark.parametrize('first', ['exported', 'trained'])
def test_a_precision_is_for_the_exported_file_of_a_comparison(first, detector, test):
    config, checkpoint, file = detector
    pair = (file, checkpoint) if first == 'exported' else (checkpoint, file)
    code, out, error = test(config, pair[0], '--compare', pair[1], '--precision', 'auto')
    assert code == 0, error
    assert out.count('│ coco/') == 6


def test_other_classes_are_refused(detector, test, small_config, tmp_path):
    config, _, file = detector
    cfg = small_config('retinanet')
    classes = list(cfg.test_dataloader.dataset.metainfo.classes)
    cfg.test_dataloader.dataset.metainfo.classes = [classes[0], 'disc', *classes[2:]]
    cfg.dump(config)
    code, _, error = test(config, file)
    assert code == 2
    assert re.search(f"class 1 is {classes[1]!r} in .*model.onnx' and 'disc' in", error)


@pytest.mark.parametrize(
    ('setting', 'value', 'named'),
    [
        ('model.test_cfg.score_thr', 0.5, 'test_cfg.score_thr is 0.05'),
        ('model.data_preprocessor.std', [1, 1, 1], 'preprocessing.std.0'),
    ],
)
def test_settings_that_the_file_does_not_follow_are_refused(setting, value, named, detector, test):
    """The settings are fixed in the graph of the file."""
    config, _, file = detector
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({setting: value})
    cfg.dump(config)
    code, _, error = test(config, file)
    assert code == 2
    assert named in error
    code, out, error = test(config, file, '--warn-only')
    assert code == 0, error
    assert named in out


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
