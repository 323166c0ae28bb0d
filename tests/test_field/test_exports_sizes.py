"""Exported files take every size of image that the model takes, and say so of every other."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvanilla.deploy.export import compare, exportable, open_model, pasted, reference, write_model
from mmvanilla.errors import InputError

FORMATS = ['.onnx', '.xml', '.pt2']
# The net's stride alone; a single row or column; narrow; none that 32 divides.
SIZES = [(32, 32), (32, 50), (161, 33), (64, 64), (100, 640), (97, 131)]


def image_of(size, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(1, channels, *size, generator=generator) * 255).round()


def test_a_level_of_a_single_anchor_is_not_exported(build):
    """The least image is one that mmdet's RPN takes."""
    anchors = dict(scales=[4], ratios=[1.0], strides=[4, 8, 16, 32, 64])
    model = build('mask_rcnn', **{'rpn_head.anchor_generator': anchors})
    least = exportable(model).min_size
    assert len(reference(model, image_of((least, least)))['boxes'])
    with pytest.raises(IndexError):
        reference(model, image_of((least // 2, least // 2)))


@pytest.fixture
def classifier(trained):
    def make(channels=3):
        init_default_scope('mmpretrain')
        torch.manual_seed(0)
        arch = dict(dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2])
        cfg = dict(
            type='ImageClassifier',
            data_preprocessor=dict(mean=[120.0] * channels, std=[60.0] * channels),
            backbone=dict(
                type='VanillaNet', arch=arch, act_num=1, out_indices=(3,), in_channels=channels
            ),
            head=dict(type='VanillaNetClsHead', num_classes=5, in_channels=32),
        )
        return trained(MODELS.build(cfg)).eval()

    return make


def check_sizes(model, file, sizes, example, **options):
    module = exportable(model, **options)
    write_model(module, example, file)
    written = open_model(file, trust=True)
    for size in sizes:
        image = image_of(size, example.shape[1])
        expected = reference(model, image, **options)
        found = pasted(written(image.numpy()), size)
        result = compare(found, expected, module.limits)
        assert result.agrees, f'{size}: {result.text}'
    return written


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize(('suffix', 'channels'), [('.onnx', 1), ('.xml', 3), ('.pt2', 1)])
def test_a_classifier_exported_from_its_smallest_image(suffix, channels, classifier, tmp_path):
    example, file = image_of((32, 32), channels), str(tmp_path / f'model{suffix}')
    written = check_sizes(classifier(channels), file, SIZES, example)
    # An image that is too small is named with the smallest size.
    for size in [(31, 400), (400, 31), (1, 1)]:
        with pytest.raises(InputError, match=f'{size[0]} x {size[1]}.* 32 x 32') as error:
            written(image_of(size, channels).numpy())
        assert '\n' not in str(error.value)
    other = 4 - channels
    with pytest.raises(InputError, match=f'{other} channels') as error:  # the runtime refuses it
        written(image_of((64, 64), other).numpy())
    assert '\n' not in str(error.value)


@pytest.mark.usefixtures('exporting')
@pytest.mark.slow
@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize(
    ('kind', 'size', 'options'),
    [
        ('mask_rcnn', (64, 64), {}),
        ('retinanet', (128, 128), {}),
        ('retinanet', (100, 640), dict(features=True)),
        ('upernet', (32, 32), {}),
        ('upernet', (32, 32), dict(label_map=True)),
    ],
)
def test_other_models_exported_from_small_images(kind, size, options, suffix, build, tmp_path):
    sizes = SIZES if kind == 'upernet' else [*SIZES, (5, 9)]  # which detectors pad
    file = str(tmp_path / f'model{suffix}')
    check_sizes(build(kind), file, sizes, image_of(size), **options)


@pytest.mark.usefixtures('exporting')
@pytest.mark.slow
@pytest.mark.parametrize('suffix', FORMATS)
def test_a_net_with_adaptive_pools_exported_from_a_small_image(suffix, build, tmp_path):
    file = str(tmp_path / f'model{suffix}')
    check_sizes(build('upernet', ada_pool=True), file, SIZES, image_of((32, 32)))


@pytest.mark.usefixtures('exporting')
@pytest.mark.slow
@pytest.mark.parametrize('suffix', FORMATS)
def test_an_exported_detector_that_finds_nothing(suffix, build, tmp_path):
    model = build('mask_rcnn', **{'test_cfg.rcnn.score_thr': 1.0})
    check_sizes(model, str(tmp_path / f'model{suffix}'), SIZES[:3], image_of((64, 64)))


@pytest.mark.usefixtures('exporting')
def test_one_image_that_is_too_small_does_not_end_the_others(
    build, small_config, run_tool, tmp_path
):
    cfg = small_config('fcn')
    steps = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = [s for s in steps if s['type'] != 'Resize']
    cfg.dump(tmp_path / 'config.py')
    module = exportable(build('fcn'), label_map=True)
    write_model(module, image_of((64, 64)), str(tmp_path / 'model.onnx'))
    (tmp_path / 'images').mkdir()
    for name, size in (('a', 64), ('b', 16), ('c', 80)):
        picture = np.full((size, size, 3), 99, np.uint8)
        cv2.imwrite(str(tmp_path / f'images/{name}.png'), picture)
    arguments = [tmp_path / 'config.py', tmp_path / 'model.onnx', tmp_path / 'images']
    code, out, error = run_tool('predict.py', *arguments, '--out', tmp_path / 'out')
    assert code == 1
    assert '16 x 16' in error
    assert '32 x 32' in error
    assert '2 of 3 inputs predicted' in out
    assert sorted(p.name for p in (tmp_path / 'out/labels').iterdir()) == ['a.png', 'c.png']
