"""What is brought to 8 bits, and what is not."""

import shutil

import numpy as np
import pytest
import torch

from mmvanilla.deploy.export import (
    exportable,
    open_model,
    reference,
    relative_error,
)
from mmvanilla.deploy.export.formats import convert_onnx, write_onnx
from mmvanilla.deploy.export.layers import compare_layers
from mmvanilla.deploy.export.quantize import quantize
from mmvanilla.errors import UserError

onnx = pytest.importorskip('onnx')
pytest.importorskip('nncf')
pytestmark = pytest.mark.usefixtures('exporting')
# Operators that may read 8 bits: layers, and those between them. Shape reads no values.
ALLOWED = {'Conv', 'Gemm', 'MatMul', 'Add', 'Resize', 'MaxPool', 'Reshape', 'Concat', 'Shape'}


def images(number=3):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (1, 3, 96, 128)).astype(np.float32) for _ in range(number)]


@pytest.fixture
def written(build, tmp_path, tmp_path_factory, request):
    """Return a model and its .onnx file, which is written once for this module."""
    cache = request.module.__dict__.setdefault('FILES', {})

    def write(kind, features=False):
        model = build(kind)
        if (kind, features) not in cache:
            file = str(tmp_path_factory.mktemp(kind) / 'model.onnx')
            function = exportable(model, features)
            write_onnx(function, torch.from_numpy(images()[0]), file, {})
            cache[kind, features] = file
        return model, shutil.copy(cache[kind, features], tmp_path / 'model.onnx')

    return write


def layers(graph):
    """Return the nodes with weights, and whether what they multiply by these is in 8 bits."""
    sources = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}

    def origins(name):
        node = sources.get(name)
        if node is None:
            return {'constant' if name in constants else 'image'}
        if node.op_type == 'Concat':
            return set().union(*map(origins, node.input))
        through = node.op_type in ('MaxPool', 'Reshape', 'Resize')  # of bytes, as well
        return origins(node.input[0]) if through else {node.op_type}

    found = {}
    for node in graph.node:
        if node.op_type in ('Conv', 'Gemm', 'MatMul'):
            image, weight = map(origins, node.input[:2])
            if weight <= {'constant', 'DequantizeLinear'}:
                found[node.name] = image == weight == {'DequantizeLinear'}
    return found


def check_graph(graph, expected):
    """Check that the expected layers are in 8 bits, and no coordinate is."""
    assert {name for name, eight in layers(graph).items() if eight} == expected
    users = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    made = [node for node in graph.node if node.op_type == 'DequantizeLinear']
    assert made
    for node in made:
        assert users[node.output[0]] <= ALLOWED, (node.name, users[node.output[0]])


def test_layers_of_a_segmentor_are_in_8_bits(written):
    _, file = written('upernet')
    expected = set(layers(onnx.load(file).graph))
    quantize(file, images())
    check_graph(onnx.load(file).graph, expected)


@pytest.mark.slow
def test_coordinates_are_not_and_what_boxes_change_is_not_compared(written, tmp_path):
    _, file = written('mask_rcnn')
    exact = shutil.copy(file, tmp_path / 'exact.onnx')
    quantize(file, images())
    check_graph(onnx.load(file).graph, set(layers(onnx.load(exact).graph)))
    compared = compare_layers(str(exact), file, images()[:1])
    parts = {bool(np.isnan(layer.error)): set() for layer in compared}
    for layer in compared:
        parts[bool(np.isnan(layer.error))].add(layer.name.partition('.')[0])
    assert parts == {False: {'backbone', 'neck', 'rpn_head'}, True: {'roi_head'}}


def test_depthwise_weights_have_a_scale_a_channel(written):
    _, file = written('upernet', features=True)
    quantize(file, images())
    graph = onnx.load(file).graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    # The weights are stored as bytes; beside each stand its scales.
    scales = [
        values[node.input[1]]
        for node in graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] in values
    ]
    assert len(scales) == 10  # the stem's two layers and four blocks of two
    assert all(scale.size > 1 for scale in scales)


def test_what_is_kept_is_in_floating_point(written):
    _, file = written('upernet', features=True)
    first, second, *others = layers(onnx.load(file).graph)
    quantize(file, images(), keep=[first, second])
    found = layers(onnx.load(file).graph)
    assert not found[first]
    assert not found[second]
    assert all(found[name] for name in others)


def test_errors_are_those_of_another_runtime(written, tmp_path):
    """The last layer of the backbone is an output, too, which ONNX Runtime and PyTorch compute."""
    model, file = written('upernet', features=True)
    exact = shutil.copy(file, tmp_path / 'exact.onnx')
    quantize(file, images())
    compared = compare_layers(str(exact), file, images()[:1])
    names = [layer.name for layer in compared]
    assert names[:2] == ['backbone.stem.0', 'backbone.stem.1']
    assert names[-2:] == ['backbone.stages.3.conv.0', 'backbone.stages.3.act']
    expected = reference(model, torch.from_numpy(images()[0]), features=True)
    error = relative_error(open_model(file)(images()[0])['level3'], expected['level3'])
    assert 1e-3 < error < 0.1  # bytes are not floats, and not noise
    assert compared[-1].error == pytest.approx(error, rel=0.05)
    assert compared[0].added == compared[0].error  # nothing stands before it
    assert compared[1].added == pytest.approx(compared[1].error - compared[0].error)


@pytest.mark.slow
def test_detections_in_8_bits_whatever_the_rest_is_computed_in(build, tmp_path):
    openvino = pytest.importorskip('openvino')
    model = build('retinanet')
    source, file = (str(tmp_path / f'model{suffix}') for suffix in ('.onnx', '.xml'))
    function, example = exportable(model), torch.from_numpy(images()[0])
    write_onnx(function, example, source, {})
    quantize(source, images())
    convert_onnx(source, file)
    expected = open_model(file)(images()[0])
    able = 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    for precision in ('auto', 'bf16') if able else ('auto',):
        found = open_model(file, precision=precision)(images()[0])
        best = min(len(found['scores']), len(expected['scores']), 20)
        assert best > 10
        scores = [np.sort(o['scores'])[::-1][:best] for o in (found, expected)]
        np.testing.assert_allclose(*scores, atol=0.05)


def test_a_program_of_pytorch_is_not_made_from_another_format(tmp_path):
    with pytest.raises(UserError, match=r'model\.pt2.* cannot be made from .*a\.onnx'):
        convert_onnx('a.onnx', str(tmp_path / 'model.pt2'))
    assert not list(tmp_path.iterdir())
