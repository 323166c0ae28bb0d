"""Models as plain functions of an image, against what mmdet and mmseg compute."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from mmvanilla import VanillaNet, fuse
from mmvanilla.deploy.export import (
    compare,
    exportable,
    formats,
    open_model,
    pasted,
    reference,
    write_model,
)
from mmvanilla.deploy.export.pooling import AdaptiveMax, AdaptiveMean, make_exportable
from mmvanilla.errors import UserError
from mmvanilla.models.vanillanet import AdaptivePool

# The least that RetinaNet's coarsest level takes, a common one, and none that 32 divides.
SIZES = [(64, 64), (160, 192), (161, 99)]


def image_of(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(1, 3, *size, generator=generator) * 255).round()


def run(module, image):
    with torch.no_grad():
        outputs = module(image)
    return {n: v.numpy() for n, v in zip(module.output_names, outputs, strict=True)}


def check(function, model, image, **options):
    expected = reference(model, image, **options)
    found = pasted(function(image), tuple(image.shape[-2:]))
    result = compare(found, expected)
    assert result.agrees, result.text
    return expected


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_detections_are_those_of_mmdet(kind, size, build):
    model = build(kind)
    module = exportable(model)
    expected = check(lambda image: run(module, image), model, image_of(size))
    assert len(expected['boxes']) > 20


@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_an_image_without_detections(kind, build):
    threshold = {'retinanet': 'test_cfg.score_thr', 'mask_rcnn': 'test_cfg.rcnn.score_thr'}[kind]
    model = build(kind, **{threshold: 1.0})
    found = run(exportable(model), image_of((96, 96)))
    assert {name: len(value) for name, value in found.items()} == dict.fromkeys(found, 0)
    check(lambda image: run(exportable(model), image), model, image_of((96, 96)))


@pytest.mark.parametrize('label_map', [False, True])
@pytest.mark.parametrize('size', SIZES)
def test_segmentations_are_those_of_mmseg(size, label_map, build):
    model = build('upernet')
    module = exportable(model, label_map=label_map)
    check(lambda image: run(module, image), model, image_of(size), label_map=label_map)


def test_a_label_map_is_not_asked_of_a_detector(build):
    image = torch.randint(256, (1, 3, 96, 128)).float()
    found = reference(build('retinanet'), image, label_map=True)
    assert set(found) == {'boxes', 'scores', 'labels'}


@pytest.mark.parametrize('ada_pool', [False, True])
@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn', 'upernet'])
def test_features_are_those_of_the_model(kind, ada_pool, build):
    model = build(kind, ada_pool)
    module = exportable(model, features=True)
    expected = check(lambda image: run(module, image), model, image_of((161, 99)), features=True)
    assert len(expected) == {'retinanet': 5, 'mask_rcnn': 5, 'upernet': 4}[kind]


def test_the_model_itself_is_left_alone(build):
    model = build('upernet')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exportable(model)
    assert not model.backbone.deploy
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def suppressed(graph):
    """Return how many boxes each suppression of an ONNX graph may keep."""
    from onnx.numpy_helper import to_array

    values = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == 'NonMaxSuppression']
    return [values[node.input[2]].item() for node in nodes]


@pytest.mark.slow
@pytest.mark.usefixtures('exporting')
def test_a_written_mask_rcnn_takes_any_size(build, tmp_path, monkeypatch):
    import onnx

    model = build('mask_rcnn')
    module, example = exportable(model), image_of((160, 192))
    # Traced and translated once: the formats begin with what the same functions make for others.
    program = formats.trace(module, example)
    monkeypatch.setattr(formats, 'trace', lambda *_: program)
    first = tmp_path / 'model.onnx'
    for suffix in ('.pt2', '.onnx', '.xml'):
        file = str(tmp_path / f'model{suffix}')
        write_model(module, example, file)
        written = open_model(file, trust=True)
        for size in SIZES:
            check(lambda image, written=written: written(image.numpy()), model, image_of(size))
        if suffix == '.onnx':
            graph = onnx.load(file).graph
            assert {node.domain for node in graph.node} == {''}  # standard operators alone
            assert 'RoiAlign' in {node.op_type for node in graph.node}
            used = {name for node in graph.node for name in node.input}
            assert used >= {weight.name for weight in graph.initializer}
            cfg = model.test_cfg
            assert suppressed(graph) == [cfg.rpn.max_per_img, cfg.rcnn.max_per_img]
            monkeypatch.setattr(formats, 'write_onnx', lambda *call: shutil.copy(first, call[2]))


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        ('upernet', dict(label_map=True)),
        ('upernet', dict()),
        ('retinanet', dict()),
        ('retinanet', dict(features=True)),
    ],
)
@pytest.mark.slow
def test_every_kind_in_every_runtime(kind, options, suffix, build, tmp_path):
    model = build(kind)
    file = str(tmp_path / f'model{suffix}')
    write_model(exportable(model, **options), image_of((160, 192)), file)
    written = open_model(file, trust=True)
    for size in SIZES:
        check(lambda image: written(image.numpy()), model, image_of(size), **options)


@pytest.mark.slow
@pytest.mark.usefixtures('exporting')
def test_a_written_ada_backbone_takes_any_size(build, tmp_path):
    model = build('upernet', ada_pool=True)
    file = str(tmp_path / 'model.onnx')
    write_model(exportable(model, label_map=True), image_of((128, 160)), file)
    written = open_model(file, trust=True)
    for size in SIZES:
        check(lambda image: written(image.numpy()), model, image_of(size), label_map=True)


@pytest.mark.parametrize('size', [(7, 7), (3, 10), (1, 5), (12, 6)])
def test_adaptive_pools_are_those_of_pytorch(size):
    x = torch.randn(2, 3, *size)
    for bins in ((1, 1), (2, 2), (3, 3), (6, 6)):
        torch.testing.assert_close(AdaptiveMean(bins)(x), nn.AdaptiveAvgPool2d(bins)(x))
    for stride in (2, 3):
        assert torch.equal(AdaptiveMax(stride)(x), AdaptivePool(stride)(x))


@torch.no_grad()
@pytest.mark.parametrize('name', ['conv', 'pool', 'act'])
@pytest.mark.parametrize('ada_pool', [False, True])
def test_layers_with_hooks_that_change_outputs_stay(name, ada_pool, trained):
    arch = dict(dims=[4, 6, 8], strides=[2, 2], ada_pool=ada_pool)
    net = fuse(trained(VanillaNet(arch, out_indices=(2,)))).eval()
    net.get_submodule(f'stages.0.{name}').register_forward_hook(lambda _m, _x, out: 1 - out)
    image = torch.randn(1, 3, 50, 70)
    expected = net(image)[0]
    make_exportable(net)
    assert isinstance(net.stages[1].act, nn.Conv2d)
    torch.testing.assert_close(net(image)[0], expected, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_exported_is_refused(build):
    with pytest.raises(UserError, match='leave out --label-map'):
        exportable(build('upernet', **{'test_cfg.mode': 'slide'}), label_map=True)
    padded = {'data_preprocessor.test_cfg': dict(size_divisor=32), 'test_cfg.mode': 'slide'}
    with pytest.raises(UserError, match='multiples of 32'):
        exportable(build('upernet', **padded))
    model = build('retinanet')
    model.backbone.act_learn = 0.5
    with pytest.raises(UserError, match=r'act_learn of backbone is 0\.5'):
        exportable(model)
    model.backbone.act_learn = 1
    model.bbox_head = nn.Conv2d(1, 1, 1)
    with pytest.raises(UserError, match='cannot be exported whole.*export its features'):
        exportable(model)


def test_masks_are_pasted_as_by_mmdet():
    masks = np.zeros((1, 28, 28), dtype=np.float32)
    masks[:, :14] = 1
    outputs = dict(boxes=np.float32([[10, 20, 30, 60]]), masks=masks)
    whole = pasted(outputs, (100, 50))['masks'][0]
    rows, columns = np.nonzero(whole)
    assert (rows.min(), rows.max()) == (20, 39)
    assert (columns.min(), columns.max()) == (10, 29)
