"""Accelerated detectors and segmentors give what the fused ones give."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla import accelerate, fuse
from mmvanilla.acceleration.precision import LowPrecision
from mmvanilla.measure.subject import calibrate, sample_type

DTYPES = [
    'fp32',
    pytest.param(
        'bf16',
        marks=pytest.mark.skipif(
            not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason='no instructions for bfloat16'
        ),
    ),
]


def make_model(small_config, kind, ada_pool=False):
    cfg: Config = small_config(kind, ada_pool)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    calibrate(model.backbone)
    return fuse(model, neck_and_heads=kind != 'upernet'), cfg.default_scope


def make_batch(scope, sizes=((96, 128),)):
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
        samples.append(sample_type(scope)(metainfo=meta))
    return dict(inputs=images, data_samples=samples)


def relative(mine, its):
    return ((mine.double() - its.double()).norm() / its.double().norm()).item()


@torch.no_grad()
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_features_and_heads_of_detectors(small_config, kind, dtype):
    model, _scope = make_model(small_config, kind)
    reference = copy.deepcopy(model)
    bound = 1e-5 if dtype == 'fp32' else 1e-2
    accelerate(model, dtype=dtype)
    x = torch.randn(2, 3, 96, 128)
    mine, its = model.extract_feat(x), reference.extract_feat(x)
    assert len(mine) == len(its)
    for a, b in zip(mine, its, strict=True):
        assert a.dtype == torch.float32
        assert a.shape == b.shape
        assert relative(a, b) < bound
    head = 'bbox_head' if kind == 'retinanet' else 'rpn_head'
    for a_levels, b_levels in zip(
        getattr(model, head)(its), getattr(reference, head)(its), strict=True
    ):
        for a, b in zip(a_levels, b_levels, strict=True):
            assert a.dtype == torch.float32
            assert a.shape == b.shape
            assert relative(a, b) < bound
    is_low = isinstance(getattr(model, head).forward, LowPrecision)
    assert is_low == (dtype != 'fp32')


@torch.no_grad()
@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_results_of_detectors_in_float32(small_config, kind):
    model, scope = make_model(small_config, kind)
    # Of untrained heads every score is low, and all that pass are compared.
    for cfg in (model.test_cfg, model.test_cfg.get('rcnn') or {}):
        if 'score_thr' in cfg:
            cfg.score_thr = 0.0
    reference = copy.deepcopy(model)
    accelerate(model, dtype='fp32')
    sizes = ((96, 128), (64, 96))
    mine = model.test_step(make_batch(scope, sizes))
    its = reference.test_step(make_batch(scope, sizes))
    found = 0
    for a, b in zip(mine, its, strict=True):
        a, b = a.pred_instances, b.pred_instances
        assert a.keys() == b.keys()
        assert len(a) == len(b)
        found += len(a)
        torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=1e-4)
        # Equal scores may change places; sums do not see that.
        torch.testing.assert_close(a.bboxes.sum(0), b.bboxes.sum(0), atol=1.0, rtol=1e-3)
    assert found > 0


@torch.no_grad()
@pytest.mark.parametrize('dtype', DTYPES)
def test_results_of_segmentors(small_config, trained, dtype):
    cfg = small_config('upernet')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    calibrate(model.backbone)
    heads = [model.decode_head, model.auxiliary_head]
    for head in heads:
        trained(head)
    reference = fuse(copy.deepcopy(model), neck_and_heads=True)
    accelerate(model, dtype=dtype)
    [mine] = model.test_step(make_batch('mmseg'))
    [its] = reference.test_step(make_batch('mmseg'))
    assert mine.seg_logits.data.dtype == torch.float32
    assert mine.keys() == its.keys()
    bound = 1e-5 if dtype == 'fp32' else 1e-2
    assert relative(mine.seg_logits.data, its.seg_logits.data) < bound
    assert (mine.pred_sem_seg.data == its.pred_sem_seg.data).float().mean() > 0.95


def test_what_is_no_vanillanet_keeps_its_state(small_config):
    model, _ = make_model(small_config, 'mask_rcnn')
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accelerate(model, dtype='fp32')
    others = {name for name in before if not name.startswith('backbone.')}
    assert model.state_dict().keys() == others
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in others)
