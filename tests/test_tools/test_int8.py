"""Exports in 8 bits and exports of random weights, by tools/deploy.py."""

import re
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mmengine.config import Config
from rich.console import Console

import mmvanilla.deploy.int8
from mmvanilla import UserError
from mmvanilla.cli import set_data_root
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.export import OpenedModel, formats, open_model

pytest.importorskip('nncf')
pytestmark = pytest.mark.usefixtures('exporting')
QUIET = (
    '--cfg-options',
    *(
        f'{part}_dataloader.{name}'
        for part in ('train', 'val')
        for name in ('num_workers=0', 'persistent_workers=False')
    ),
)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes'), train=4, val=2, size=96)


@pytest.fixture(scope='module')
def exports(tmp_path_factory):
    """Return what exports to ONNX, the same model and details once."""
    folder, files = tmp_path_factory.mktemp('exports'), {}

    def write(function, example, file, details):
        key = type(function), str(details)
        if key not in files:
            files[key] = folder / f'{len(files)}.onnx'
            formats.write_onnx(function, example, str(files[key]), details)
        write.latest = files[key]
        shutil.copy(files[key], file)

    return write


@pytest.fixture(autouse=True)
def exported_once(exports, monkeypatch):
    monkeypatch.setattr(mmvanilla.deploy.int8, 'write_onnx', exports)


@pytest.fixture
def deploy(files, run_tool, shapes, tmp_path):
    """Run the tool on a small segmentor, whose data are shapes."""
    _, config, checkpoint = files('fcn')
    data = shapes / 'ADEChallengeData2016'

    def run(*arguments, weights=(checkpoint,)):
        return run_tool('deploy.py', config, *weights, '--data-root', data, *QUIET, *arguments)

    run.config, run.checkpoint, run.data = config, checkpoint, data
    (tmp_path / 'out').mkdir()
    return run


def test_both_formats_in_8_bits(deploy, exports, run_tool, tmp_path):
    names = [tmp_path / 'out/model.onnx', tmp_path / 'out/model.xml']
    code, out, error = deploy('--int8', '--onnx', names[0], '--openvino', names[1])
    assert code == 0, error
    assert 'calibrated on 4 training images' in out
    kept = re.findall(r'mIoU (\S+) of (\S+)', out)
    assert len(kept) == 2
    assert names[0].stat().st_size < 0.6 * exports.latest.stat().st_size
    for file in names:
        details = open_model(str(file)).details
        assert details['record']['classes'][0] == 'background'
        assert (details['checked'], details['precision']) == (True, 'int8')
    # What tools/test.py finds is what was printed.
    work = tmp_path / 'work'
    arguments = ('--data-root', deploy.data, '--work-dir', work, '--compare', deploy.checkpoint)
    code, out, error = run_tool(
        *('test.py', deploy.config, names[1], *arguments),
        *('--cfg-options', 'test_dataloader.num_workers=0'),
        'test_dataloader.persistent_workers=False',
    )
    assert code == 0, error
    row = next(line for line in out.splitlines() if ' mIoU ' in line)
    figures = [float(part) for part in re.findall(r'[-+]?\d+\.\d+', row)]
    assert figures[2] == pytest.approx(figures[1] - figures[0], abs=1e-3)
    assert figures[0] == pytest.approx(100 * float(kept[1][0]), abs=0.02)


def test_what_loses_too_much_is_not_written(deploy, tmp_path, monkeypatch):
    monkeypatch.setattr(mmvanilla.deploy.int8, 'FLOAT_LAYERS', (0, 1))
    file = tmp_path / 'out/model.xml'
    code, out, error = deploy('--int8', '--openvino', file, '--max-drop', -1)
    assert code == 2
    assert re.search(r'is not written: in 8 bits mIoU \S+ of \S+, which is \S+ less', error)
    assert 'stay in floating point: ' in out
    assert not list(file.parent.iterdir())


@pytest.mark.parametrize(('found', 'written'), [(0.326, True), (0.325, False)])
def test_a_drop_as_large_as_allowed_is_allowed(found, written, monkeypatch):
    """Between the floats lie 0.01000000000000006."""
    monkeypatch.setattr(mmvanilla.deploy.int8, 'evaluate', lambda *_: dict(segm_mAP=found))
    accuracy = mmvanilla.deploy.int8.Accuracy(Config(dict(model={})), None)
    expected, opened = dict(segm_mAP=0.336), OpenedModel(dict, (), {})
    arguments = accuracy, expected, 'model.xml', Console(quiet=True), opened
    with nullcontext() if written else pytest.raises(UserError, match='which is 0.0110 less'):
        mmvanilla.deploy.int8.check_accuracy(*arguments)


def test_layers_are_kept_until_it_is_accurate(deploy, tmp_path, monkeypatch):
    """The first judgement is a bad one, so the worst layers stay as they were."""
    judged, compared = [], []
    compare = mmvanilla.deploy.int8.compare_layers

    def compare_layers(*arguments):
        compared.extend(compare(*arguments))
        return compared

    def evaluate(cfg, model, *_):
        judged.append(model)
        return dict(mIoU=0.5 if len(judged) == 2 else 0.9)

    monkeypatch.setattr(mmvanilla.deploy.int8, 'evaluate', evaluate)
    monkeypatch.setattr(mmvanilla.deploy.int8, 'compare_layers', compare_layers)
    file = tmp_path / 'out/model.onnx'
    code, out, error = deploy('--int8', '--onnx', file)
    assert code == 0, error
    assert len(judged) == 3
    worst = sorted(compared, key=lambda layer: layer.added)[-2:]
    (named,) = re.findall(r'stay in floating point: (.*)', out)
    assert set(named.split(', ')) == {layer.name for layer in worst}


def test_calibration_images_are_the_same_in_every_pass(small_config, shapes):
    """They are read again for every pass, and the training pipeline flips at random."""
    cfg = small_config('fcn')
    set_data_root(cfg, str(shapes / 'ADEChallengeData2016'))
    images = mmvanilla.deploy.int8.CalibrationImages(cfg, 3)
    first, second = list(images), list(images)
    assert len(images) == len(first) == 3
    for image, again in zip(first, second, strict=True):
        assert image.dtype == 'float32'
        np.testing.assert_array_equal(image, again)


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--calibrate', 5], r'--calibrate is 5, and the training data have 4 images; ask for at'),
        (['--calibrate', 0], r'--calibrate is 0, expected at least 1'),
        (['--export', 'model.pt2'], r'--export writes no 8 bits'),
        (['--data-root', 'nowhere'], "No such file or directory: 'nowhere|there is no .*nowhere"),
    ],
)
def test_mistakes(arguments, sentence, deploy, tmp_path):
    file = tmp_path / 'out/model.onnx'
    code, _, error = deploy('--int8', '--onnx', file, *arguments)
    assert code == 2
    assert re.search(sentence, error.splitlines()[-1]), error
    assert 'Traceback' not in error
    assert not list(file.parent.iterdir())


def test_int8_needs_a_format_and_its_package(deploy, tmp_path, monkeypatch):
    assert '--int8 needs --onnx or --openvino' in deploy('--int8', '--out', 'a.pth')[2]
    assert 'the checkpoint is missing' in deploy('--onnx', 'a.onnx', weights=())[2]
    real = formats.importlib.import_module

    def missing(name, package=None):
        if name == 'nncf':
            raise ImportError(name=name)
        return real(name, package)

    monkeypatch.setattr(formats.importlib, 'import_module', missing)
    code, _, error = deploy('--int8', '--onnx', tmp_path / 'out/model.onnx')
    assert code == 2
    assert 'needs the package nncf; pip install "mmvanilla[export]"' in error


@pytest.mark.parametrize(('flags', 'said'), [('avx2 fma', True), ('avx2 avx_vnni', False)])
def test_a_processor_without_vnni(flags, said, deploy, tmp_path, monkeypatch):
    monkeypatch.setattr(mmvanilla.deploy.int8, 'cpu_flags', lambda: set(flags.split()))
    file = tmp_path / 'out/model.onnx'
    code, out, error = deploy('--int8', '--onnx', file, '--features')
    assert code == 0, error
    assert ('no VNNI' in out) == said
    assert open_model(str(file)).details['checked'] is False  # features have no metrics


def test_random_weights_to_measure_with(deploy, tmp_path):
    file = tmp_path / 'out/model.onnx'
    code, out, error = deploy('--no-check', '--onnx', file, weights=())
    assert code == 0, error
    assert 'not compared' in out
    opened = open_model(str(file))
    assert opened.details['checked'] is False
    outputs = opened(torch.rand(1, 3, 64, 96).numpy())
    assert outputs['logits'].shape == (1, 7, 64, 96)
