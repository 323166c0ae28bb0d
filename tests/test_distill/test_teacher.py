"""Teachers: their configs, their weights and their preprocessing."""

import os

import pytest
import torch
from batches import batch_of
from mmengine.registry import MODELS

from mmvanilla import UserError
from mmvanilla.distill import add_teacher
from mmvanilla.distill.teacher import Conversion, build_teacher, model_config
from mmvanilla.errors import CheckpointError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
KINDS = dict(
    classifier=('mmpretrain.ClsDataPreprocessor', 'to_rgb'),
    retinanet=('mmdet.DetDataPreprocessor', 'bgr_to_rgb'),
    upernet=('mmseg.SegDataPreProcessor', 'bgr_to_rgb'),
)


@pytest.mark.parametrize('swap', [True, False])
@pytest.mark.parametrize('theirs', KINDS)
@pytest.mark.parametrize('ours', KINDS)
def test_conversion_equals_the_teachers_preprocessing(ours, theirs, swap):
    kind, flag = KINDS[ours]
    options = dict(size=(64, 64)) if ours == 'upernet' else {}
    student = MODELS.build(dict(type=kind, mean=MEAN, std=STD, **{flag: True}, **options))
    kind, flag = KINDS[theirs]
    other = dict(type=kind, mean=[127.5] * 3, std=[127.5, 100.0, 50.0], **{flag: swap})
    teacher = MODELS.build(other)
    batch = batch_of(ours)
    image = torch.stack(batch['inputs'])
    pixels = image.flip(1) if swap else image
    expected = (pixels - 127.5) / torch.tensor([127.5, 100.0, 50.0])[:, None, None]
    convert = Conversion(student, teacher, 3)
    assert not convert.is_identity
    images = student(batch, True)['inputs']
    torch.testing.assert_close(convert(images), expected, rtol=1e-4, atol=1e-5)


def test_the_same_preprocessing_costs_nothing():
    cfg = dict(type='mmdet.DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True)
    convert = Conversion(MODELS.build(cfg), MODELS.build(cfg), 3)
    images = torch.rand(1, 3, 8, 8)
    assert convert(images) is images


def test_a_mean_of_two_images_is_converted_to_the_mean_of_both():
    """As mixup and cutmix need it."""
    student = MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor', mean=MEAN, std=STD))
    teacher = MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor'))  # pixels as they are
    images = torch.stack(batch_of('classifier')['inputs']).float()
    ours = student(dict(inputs=images))['inputs']
    convert = Conversion(student, teacher, 3)
    mixed, expected = 0.3 * ours[0] + 0.7 * ours[1], 0.3 * images[0] + 0.7 * images[1]
    torch.testing.assert_close(convert(mixed[None])[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('mmpretrain::beitv2/benchmarks/beit-base-p16_8xb64_in1k.py', 'ImageClassifier'),
        ('mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py', 'MaskRCNN'),
        ('mask_rcnn_vanillanet13_shapes', 'MaskRCNN'),
    ],
)
def test_stock_configs_are_read_in_their_scope(name, kind):
    cfg = model_config(name)
    assert type(MODELS.build(cfg)).__name__ == kind
    # mmpretrain's configs have it outside of the model.
    assert cfg['data_preprocessor']['mean'] == MEAN


def test_a_teacher_is_ready(model_cfg, teacher):
    cfg = model_cfg('classifier')
    path = teacher(cfg, note='kept')
    state = torch.get_rng_state()
    model, meta = build_teacher(cfg, path)
    assert torch.equal(state, torch.get_rng_state())
    assert meta == dict(note='kept')
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    weights = torch.load(path)['state_dict']
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('damage', ['missing', 'shape', 'another model'])
def test_weights_that_do_not_fit_are_refused(damage, model_cfg, teacher):
    cfg = model_cfg('retinanet')
    path = teacher(cfg)
    checkpoint = torch.load(path)
    weights, name = checkpoint['state_dict'], 'neck.lateral_convs.0.conv.weight'
    if damage == 'missing':
        del weights[name]
    elif damage == 'shape':
        weights[name] = weights[name][:1]
    else:
        name, cfg = 'neck.lateral_convs', model_cfg('mask_rcnn')
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match="teacher's checkpoint .* does not fit") as error:
        build_teacher(cfg, path)
    assert name in str(error.value)
    assert '\n' not in str(error.value)


def test_tables_of_indices_may_be_missing(tmp_path):
    """Published files of BEiT and Swin do not all have them; the model computes them."""
    cfg = dict(
        type='ImageClassifier',
        _scope_='mmpretrain',
        backbone=dict(
            type='SwinTransformer',
            arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]),
            img_size=32,
            out_indices=(1,),
            window_size=4,
        ),
    )
    weights = MODELS.build(cfg).state_dict()
    tables = [name for name in weights if name.endswith('relative_position_index')]
    assert tables
    for name in tables:
        del weights[name]
    torch.save(dict(state_dict=weights), tmp_path / 'swin.pth')
    build_teacher(cfg, str(tmp_path / 'swin.pth'))
    del weights[tables[0].replace('index', 'bias_table')]
    torch.save(dict(state_dict=weights), tmp_path / 'swin.pth')
    with pytest.raises(CheckpointError, match='bias_table'):
        build_teacher(cfg, str(tmp_path / 'swin.pth'))


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_of_a_checkpoint_is_run(model_cfg, tmp_path):
    torch.save(dict(state_dict={}, meta=Hostile(str(tmp_path / 'made'))), tmp_path / 'bad.pth')
    with pytest.raises(CheckpointError):
        build_teacher(model_cfg('classifier'), str(tmp_path / 'bad.pth'))
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('text', ['config.py', '@teacher.pth', 'config.py@'])
def test_half_a_teacher_is_refused(text):
    with pytest.raises(UserError, match='CONFIG@CHECKPOINT'):
        add_teacher({}, text)


def test_no_such_teacher():
    with pytest.raises(FileNotFoundError, match=r'no_such\.py'):
        model_config('no_such.py')
    with pytest.raises(FileNotFoundError, match=r'no_such\.pth'):
        build_teacher({}, 'no_such.pth')
