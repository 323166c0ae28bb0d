"""Writing and opening exported files, and telling whether they agree."""

import builtins
import contextlib
import importlib
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from mmvanilla.deploy.export import compare, open_model, write_model
from mmvanilla.errors import UserError
from mmvanilla.whole_files import writing


class Double(nn.Module):
    output_names = ('level0',)

    def forward(self, image):
        return (image * 2,)


IMAGE = torch.rand(1, 3, 32, 32)


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.pt2'])
def test_what_is_written_can_be_opened(suffix, tmp_path):
    file = tmp_path / 'new' / f'model{suffix}'
    write_model(Double(), IMAGE, str(file))
    image = np.random.rand(1, 3, 40, 64).astype(np.float32)
    np.testing.assert_allclose(open_model(str(file), trust=True)(image)['level0'], image * 2)
    expected = {file.name, 'model.bin'} if suffix == '.xml' else {file.name}
    assert {path.name for path in file.parent.iterdir()} == expected


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
def test_threads_run_a_file_at_the_same_time(suffix, tmp_path, monkeypatch):
    file = str(tmp_path / f'model{suffix}')
    write_model(Double(), IMAGE, file)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 4)
    opened = open_model(file, throughput=True)
    assert opened.parallel > (1 if suffix == '.onnx' else 0)
    assert open_model(file).parallel == 1
    images = [np.full((1, 3, 64, 32 + side), side, np.float32) for side in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for image, outputs in zip(images, list(pool.map(opened, images)), strict=True):
            assert np.array_equal(outputs['level0'], 2 * image)


@pytest.mark.usefixtures('exporting')
def test_onnx_runtime_builds_no_engine_for_each_size(tmp_path, monkeypatch):
    import onnxruntime

    file, chosen, real = tmp_path / 'model.onnx', [], onnxruntime.InferenceSession
    write_model(Double(), IMAGE, str(file))

    def session(path, options, providers):
        chosen.extend(providers)
        return real(path, options, providers=['CPUExecutionProvider'])

    names = [f'{name}ExecutionProvider' for name in ('Tensorrt', 'CUDA', 'CPU')]
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: names)
    monkeypatch.setattr(onnxruntime, 'InferenceSession', session)
    open_model(str(file))
    assert chosen == names[1:]


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.pt2'])
def test_a_failed_check_leaves_what_was_there(suffix, tmp_path):
    file = tmp_path / f'model{suffix}'
    file.write_bytes(b'old')

    def refuse(model):
        raise UserError('differs')

    with pytest.raises(UserError, match='differs'):
        write_model(Double(), IMAGE, str(file), refuse)
    assert file.read_bytes() == b'old'
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    target = str(tmp_path / 'file' / 'model.onnx')
    with pytest.raises(UserError, match='cannot be written .*; name another folder'):
        write_model(None, IMAGE, target)  # refused before any work
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_torch_that_cannot_export_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, 'export', lambda mod, args, kwargs=None: None)  # as before
    with pytest.raises(UserError, match=r'exporting needs torch \d+\.\d+ or later') as error:
        write_model(Double(), IMAGE, str(tmp_path / 'model.pt2'))
    assert torch.__version__ in str(error.value)
    assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format(tmp_path):
    for call in (lambda f: write_model(Double(), IMAGE, f), open_model):
        with pytest.raises(UserError, match=r"model\.tflite' is of no known format, expected"):
            call(str(tmp_path / 'model.tflite'))


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
def test_a_missing_package_is_named(suffix, tmp_path, monkeypatch):
    real = importlib.import_module

    def missing(name, package=None):
        if name in ('onnx', 'openvino'):
            raise ImportError(f'No module named {name!r}', name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, 'import_module', missing)
    monkeypatch.setattr(builtins, 'print', lambda *_: None)
    with pytest.raises(UserError, match=r'needs the package (onnx|openvino); pip install'):
        write_model(Double(), IMAGE, str(tmp_path / f'model{suffix}'))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.pt2'])
def test_a_file_that_cannot_be_opened(suffix, tmp_path):
    pytest.importorskip({'.onnx': 'onnxruntime', '.xml': 'openvino', '.pt2': 'torch'}[suffix])
    file = tmp_path / f'model{suffix}'
    with pytest.raises(FileNotFoundError, match='there is no exported file'):
        open_model(str(file), trust=True)
    file.write_bytes(b'PK nonsense')
    with pytest.raises(UserError, match='cannot be opened .* export it again'):
        open_model(str(file), trust=True)


def test_writing_moves_everything_or_nothing(tmp_path):
    with writing(str(tmp_path / 'a.xml')) as path:
        for suffix in ('xml', 'bin'):
            with open(path[:-3] + suffix, 'w') as file:
                file.write(suffix)
        assert not (tmp_path / 'a.xml').exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.bin', 'a.xml']


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    (tmp_path / 'a.xml').write_text('xml')

    def interrupted():
        with writing(str(tmp_path / 'a.xml')) as path:
            open(path, 'w').close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / 'a.xml').read_text() == 'xml'
    assert [path.name for path in tmp_path.iterdir()] == ['a.xml']


def detections(number=5, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (number, 2))
    return dict(
        boxes=np.concatenate([corner, corner + rng.uniform(20, 40, (number, 2))], 1).astype('f4'),
        scores=np.linspace(0.9, 0.1, number, dtype='f4'),
        labels=np.arange(number) % 2,
        masks=rng.random((number, 30, 30)) > 0.5,
    )


def test_the_same_detections_in_another_order_agree():
    expected = detections()
    found = {name: value[::-1].copy() for name, value in expected.items()}
    result = compare(found, expected)
    assert result.agrees
    assert '5 of 5 boxes matched by 5' in result.text


@pytest.mark.parametrize(
    'spoil',
    [
        lambda o: o['boxes'].__setitem__(0, o['boxes'][0] + 1),
        lambda o: o['labels'].__setitem__(1, 7),
        lambda o: o['scores'].__setitem__(2, o['scores'][2] + 2e-3),
        lambda o: o['masks'].__setitem__(3, ~o['masks'][3]),
        lambda o: o['boxes'].__setitem__(1, np.nan),
        lambda o: o.update({name: value[1:] for name, value in o.items()}),
        lambda o: o.update({name: np.concatenate([v, v[:1]]) for name, v in o.items()}),
        lambda o: o.pop('masks'),
    ],
)
def test_detections_that_differ(spoil):
    found = detections()
    spoil(found)
    assert not compare(found, detections()).agrees


def test_a_box_at_the_edge_of_being_reported_may_lack():
    expected = detections()
    expected['scores'][-2:] = 0.0500, 0.0504
    found = {name: value[:-1] for name, value in expected.items()}
    assert compare(found, expected).agrees


def test_features_and_labels_that_differ():
    expected = dict(level0=np.ones((1, 4, 5, 5)))
    assert compare(dict(level0=expected['level0'] * (1 + 5e-4)), expected).agrees
    assert not compare(dict(level0=expected['level0'] * (1 + 2e-3)), expected).agrees
    assert not compare(dict(level0=expected['level0'] * np.nan), expected).agrees
    assert not compare(dict(level0=expected['level0'][..., 1:]), expected).agrees
    labels = np.zeros((1, 100, 100), dtype=np.int64)
    other = labels.copy()
    other[0, 0, :9] = 1
    assert compare(dict(label_map=other), dict(label_map=labels)).agrees
    other[0, 1, :9] = 1
    assert not compare(dict(label_map=other), dict(label_map=labels)).agrees


@pytest.mark.usefixtures('exporting')
def test_a_program_runs_only_where_it_is_trusted(tmp_path):
    """A .pt2 file can do anything: here a shape in it is a text that torch evaluates."""
    file, canary = tmp_path / 'model.pt2', tmp_path / 'canary'
    write_model(Double(), IMAGE, str(file))
    with zipfile.ZipFile(file) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    code = f"__import__('os').mkdir('{canary}')"
    with zipfile.ZipFile(file, 'w') as archive:
        for name, data in members:
            if name.endswith('model.json'):
                data = re.sub(rb'"expr_str": "[^"]+"', f'"expr_str": "{code}"'.encode(), data)
            archive.writestr(name, data)
    with pytest.raises(UserError, match='is a program of PyTorch.* trust it') as error:
        open_model(str(file))
    assert '\n' not in str(error.value)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        open_model(str(file), trust=True)
    assert canary.exists()  # this is why


@pytest.mark.parametrize('place', ['../secret', '{folder}/secret'])
def test_an_exported_file_reads_no_others(place, tmp_path):
    """ONNX Runtime takes weights from the model's own folder only."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    (tmp_path / 'model').mkdir()
    (tmp_path / 'secret').write_bytes(bytes(16))
    weight = onnx.TensorProto(name='w', data_type=onnx.TensorProto.FLOAT, dims=[4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key='location', value=place.format(folder=tmp_path))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Identity', ['w'], ['level0'])],
        'graph',
        [value('image', onnx.TensorProto.FLOAT, [1])],
        [value('level0', onnx.TensorProto.FLOAT, [4])],
        [weight],
    )
    opsets = [onnx.helper.make_opsetid('', 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / 'model/m.onnx').write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match='cannot be opened .*(path|directory)'):
        open_model(str(tmp_path / 'model/m.onnx'))
