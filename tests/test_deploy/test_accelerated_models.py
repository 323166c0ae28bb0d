"""Accelerated detectors and segmentors give what the fused ones give."""

import copy

import pytest
import torch
from mmengine.structures import BaseDataElement

from mmvanilla import accelerate, fuse
from mmvanilla.benchmark.model import calibrate
from mmvanilla.deploy.accelerate.low_precision import LowPrecision, has_instructions
from mmvanilla.errors import UserError

DTYPES = [
    'fp32',
    pytest.param(
        'bf16',
        marks=pytest.mark.skipif(
            not has_instructions(torch.bfloat16), reason='no instructions for bfloat16'
        ),
    ),
]


def make_model(build, kind):
    model = build(kind)
    calibrate(model.backbone)
    return model


def make_batch(sizes=((96, 128),)):
    generator = torch.Generator().manual_seed(0)
    samples, images = [], []
    for height, width in sizes:
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        meta = dict(
            img_shape=(height, width),
            ori_shape=(height * 2, width * 2),
            scale_factor=(0.5, 0.5),
            batch_input_shape=(height, width),
        )
        images.append(image)
        samples.append(BaseDataElement(metainfo=meta))
    return dict(inputs=images, data_samples=samples)


def relative(mine, its):
    return ((mine.double() - its.double()).norm() / its.double().norm()).item()


@torch.no_grad()
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_necks_and_heads_of_detectors(build, kind, dtype):
    model = make_model(build, kind)
    reference = fuse(copy.deepcopy(model), neck_and_heads=True)
    accelerate(model, dtype=dtype)
    bound = 1e-5 if dtype == 'fp32' else 1e-2
    x = torch.randn(2, 3, 96, 128)
    mine, its = model.extract_feat(x), reference.extract_feat(x)
    for a, b in zip(mine, its, strict=True):
        assert a.dtype == torch.float32
        assert a.shape == b.shape
        # In 16 bit the backbone before the neck has lost more, as it does without acceleration.
        assert relative(a, b) < (bound if dtype == 'fp32' else 5e-2)
    features = reference.backbone(x)[-len(model.neck.in_channels) :]
    head = 'bbox_head' if kind == 'retinanet' else 'rpn_head'
    compared = [(model.neck(features), reference.neck(features))]
    compared += zip(getattr(model, head)(its), getattr(reference, head)(its), strict=True)
    for a_levels, b_levels in compared:
        for a, b in zip(a_levels, b_levels, strict=True):
            assert a.dtype == torch.float32
            assert a.shape == b.shape
            assert relative(a, b) < bound
    assert isinstance(getattr(model, head).forward, LowPrecision) == (dtype != 'fp32')


@torch.no_grad()
@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_results_of_detectors_in_float32(build, kind):
    model = make_model(build, kind)
    reference = fuse(copy.deepcopy(model), neck_and_heads=True)
    accelerate(model, dtype='fp32')
    sizes = ((96, 128), (64, 96))
    mine = model.test_step(make_batch(sizes))
    its = reference.test_step(make_batch(sizes))
    found = 0
    for a, b in zip(mine, its, strict=True):
        a, b = a.pred_instances, b.pred_instances
        assert a.keys() == b.keys()
        assert len(a) == len(b)
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.bboxes, b.bboxes, atol=1e-2, rtol=1e-4)
        if 'masks' in a:
            assert (a.masks == b.masks).float().mean() > 0.999
        found += len(a)
    assert found > 0


@torch.no_grad()
@pytest.mark.parametrize('dtype', DTYPES)
def test_results_of_segmentors(build, dtype):
    model = make_model(build, 'upernet')
    reference = fuse(copy.deepcopy(model), neck_and_heads=True)
    accelerate(model, dtype=dtype)
    [mine], [its] = (each.test_step(make_batch()) for each in (model, reference))
    assert mine.seg_logits.data.dtype == torch.float32
    assert mine.keys() == its.keys()
    bound = 1e-5 if dtype == 'fp32' else 5e-2
    assert relative(mine.seg_logits.data, its.seg_logits.data) < bound
    assert (mine.pred_sem_seg.data == its.pred_sem_seg.data).float().mean() > 0.95


def test_what_is_no_vanillanet_keeps_its_state(build):
    model = make_model(build, 'mask_rcnn')
    fuse(model, neck_and_heads=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accelerate(model, dtype='fp32')
    others = {name for name in before if not name.startswith('backbone.')}
    assert others
    assert model.state_dict().keys() == others
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in others)


def test_an_accelerated_detector_in_training_is_refused(build):
    model = make_model(build, 'retinanet')
    accelerate(model, dtype='fp32').train()
    with pytest.raises(UserError, match='not for training'):
        model(torch.randn(1, 3, 64, 64), [], mode='loss')
