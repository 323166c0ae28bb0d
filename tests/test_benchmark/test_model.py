"""Models under test: forms agree, detections do not depend on the weights, real inputs."""

import copy
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmvanilla import UserError, fuse
from mmvanilla.benchmark.model import (
    ModelSpec,
    ModelUnderTest,
    build,
    build_still,
    calibrate,
    describe_form,
)
from mmvanilla.benchmark.settings import Settings, precision
from mmvanilla.deploy.export import OpenedModel
from mmvanilla.deploy.predict import exported

SHAPE = (96, 128)


def make(cfg, form='fused', **options):
    spec = ModelSpec('net', copy.deepcopy(cfg), form)
    made = ModelUnderTest(spec, Settings(shape=SHAPE, **options))
    made.to_device()
    return made


def call(made, turn=0):
    with precision(made.settings):
        return made.prepare(turn)()


def relative(found, expected):
    return ((found.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize('options', [{}, dict(dtype='bf16'), dict(channels_last=True)])
def test_forms_compute_the_same(small_config, options):
    cfg = small_config('mask_rcnn')
    expected = call(make(cfg, 'train', part='neck'))
    for form in ('train', 'fused', 'deploy', 'accelerated'):
        made = make(cfg, form, part='neck', **options)
        assert made.model.backbone.deploy == (form != 'train')
        for found, right in zip(call(made), expected, strict=True):
            assert relative(found, right) < (0.05 if 'dtype' in options else 1e-5)
            assert found.abs().max() > 1e-3


@pytest.mark.parametrize('channels', [1, 3])
def test_an_exported_net_gets_images_of_its_channels(channels, small_config, monkeypatch):
    seen = []

    def run(image):
        seen.append(image.shape)
        return dict(logits=np.zeros((1, 7, *SHAPE), np.float32))

    monkeypatch.setattr(exported, 'open_model', lambda *_: OpenedModel(run, (), {}))
    cfg = small_config('upernet', **{'backbone.in_channels': channels})
    spec = ModelSpec('net', cfg, 'exported', file='model.onnx')
    call(ModelUnderTest(spec, Settings(shape=SHAPE)))
    assert seen == [(1, channels, *SHAPE)]


def test_deploy_form_is_built_not_fused(small_config):
    cfg = small_config('retinanet')
    fused, built = build(cfg, 'fused'), build(cfg, 'deploy')
    assert fused.backbone.state_dict().keys() == built.backbone.state_dict().keys()
    assert built.backbone.stages[0].conv.weight.is_contiguous()
    assert cfg.model.backbone.get('deploy', False) is False  # the config is unchanged


@pytest.mark.parametrize('kind', ['mask_rcnn', 'upernet'])
@pytest.mark.parametrize('form', ['fused', 'deploy'])
def test_the_built_model_is_fused_by_fuse(kind, form, small_config):
    cfg = small_config(kind, **{'neck.norm_cfg': dict(type='BN')} if kind == 'mask_rcnn' else {})
    found = build(cfg, form).state_dict()
    torch.manual_seed(0)
    model = build_still(copy.deepcopy(cfg.model))
    calibrate(model)
    for name, value in model.state_dict().items():
        if name.endswith('num_batches_tracked'):
            value.fill_(1)  # also in necks and heads
    expected = fuse(copy.deepcopy(model), neck_and_heads=True).state_dict()
    assert found.keys() == expected.keys()
    assert not any('running_mean' in name for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_norms_of_a_peer_are_folded_in_its_backbone_too(small_config):
    cfg = small_config('mask_rcnn', **{'neck.norm_cfg': dict(type='BN')})
    cfg.model.backbone = dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3))
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    trained, folded = build(cfg, 'train'), build(cfg, 'fused')
    assert not any('running_mean' in name for name in folded.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for found, expected in zip(folded.extract_feat(x), trained.extract_feat(x), strict=True):
        assert relative(found, expected) < 1e-5


@pytest.mark.parametrize('kind', ['mask_rcnn', 'retinanet'])
def test_detections_do_not_depend_on_the_backbone(kind, small_config):
    cfg = small_config(kind)
    other = copy.deepcopy(cfg)
    other.model.backbone = dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3))
    other.model.neck.in_channels = [64, 128, 256, 512]
    if kind == 'retinanet':
        other.model.backbone.update(out_indices=(1, 2, 3))
        other.model.neck.in_channels = [128, 256, 512]
    results = []
    for config in (cfg, other):
        made = make(config)
        (result,) = call(made)
        results.append(result.pred_instances)
        limit = cfg.model.test_cfg.get('rcnn', cfg.model.test_cfg).max_per_img
        assert made.detections == len(result.pred_instances) == limit
    first, second = results
    torch.testing.assert_close(first.bboxes, second.bboxes)
    torch.testing.assert_close(first.scores, second.scores)
    assert torch.equal(first.labels, second.labels)
    if kind == 'mask_rcnn':
        # Results have the size of the original image, whose shorter side is 480.
        assert first.masks.shape[-2:] == (480, 640)
        assert first.bboxes.max() <= 640


def test_without_fixed_outputs_they_depend_on_it(small_config):
    found = []
    for dim in (32, 40):
        cfg = small_config('mask_rcnn')
        cfg.model.backbone.arch.dims[-1] = cfg.model.neck.in_channels[-1] = dim
        made = make(cfg)
        for head in (made.model.rpn_head, made.model.roi_head.bbox_head):
            head._forward_hooks.clear()
        found.append(call(made)[0].pred_instances.scores)
    assert found[0].shape != found[1].shape or (found[0] - found[1]).abs().max() > 1e-3


def test_a_call_does_not_change_the_next(small_config):
    made = make(small_config('retinanet'))
    first, second = (call(made)[0].pred_instances.bboxes for _ in range(2))
    torch.testing.assert_close(first, second)


def test_segmentor(small_config):
    made = make(small_config('upernet'))
    (result,) = call(made)
    assert result.pred_sem_seg.data.shape == (1, 480, 640)
    assert made.detections is None
    with pytest.raises(UserError, match='net has no neck; measure another --part'):
        make(small_config('upernet'), part='neck')


def test_parts(small_config):
    cfg = small_config('mask_rcnn')
    assert [len(call(make(cfg, part=part))) for part in ('backbone', 'neck')] == [4, 5]
    x = make(cfg, part='backbone', batch_size=3)
    assert call(x)[0].shape == (3, 16, 24, 32)


def test_real_images(small_config, tmp_path):
    sizes = [(40, 80), (80, 40)]
    for i, size in enumerate(sizes):
        image = np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'{i}.png'), image)
    (tmp_path / 'notes.txt').write_text('no image')
    made = make(small_config('mask_rcnn'), images=str(tmp_path))
    scale = Config(small_config('mask_rcnn')._cfg_dict).test_pipeline[1].scale
    for turn, size in [(0, sizes[0]), (1, sizes[1]), (2, sizes[0])]:
        (result,) = call(made, turn)
        assert result.ori_shape == size
        assert result.pred_instances.masks.shape[-2:] == size
    assert len(made.sizes()) == 2
    assert max(side for size in made.sizes() for side in size[1:]) <= max(scale)
    with pytest.raises(FileNotFoundError, match='holds no images'):
        make(small_config('mask_rcnn'), images=str(tmp_path.parent / 'empty'))


@pytest.fixture(autouse=True)
def empty(tmp_path):
    (tmp_path.parent / 'empty').mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ('backbone', 'form', 'words'),
    [
        (dict(type='VanillaNet'), 'train', 'training form'),
        (dict(type='VanillaNet'), 'fused', 'fused'),
        (dict(type='mmvanilla.VanillaNet', deploy=True), 'fused', 'built in deploy form'),
        (dict(type='ResNet'), 'fused', 'batch norms folded'),
        (dict(type='ResNet'), 'train', 'as built'),
    ],
)
def test_form_in_words(backbone, form, words):
    assert (
        describe_form(ModelSpec('net', Config(dict(model=dict(backbone=backbone))), form)) == words
    )


def test_a_missing_library_is_named(small_config, monkeypatch):
    cfg = small_config('upernet')
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    monkeypatch.setitem(sys.modules, 'mmseg.structures', None)
    with pytest.raises(ModuleNotFoundError) as caught:
        make(cfg)
    assert caught.value.name == 'mmseg.structures'


def test_custom_imports_are_made_where_the_model_is_built(small_config, tmp_path, monkeypatch):
    (tmp_path / 'only_here.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    cfg = small_config('retinanet')
    cfg.custom_imports = dict(imports=['only_here'])
    monkeypatch.delitem(sys.modules, 'only_here', raising=False)
    make(cfg, part='backbone')
    assert 'only_here' in sys.modules


def test_models_that_cannot_be_built(small_config):
    with pytest.raises(UserError, match=r'has no model.backbone'):
        build(Config(dict(model=dict(type='MaskRCNN'))), 'fused')
    cfg = small_config('mask_rcnn', **{'backbone.deploy': True})
    with pytest.raises(UserError, match='has no training form'):
        build(cfg, 'train')
    cfg.model.backbone = dict(type='ResNet', depth=18)
    with pytest.raises(UserError, match='ResNet has no deploy form'):
        build(cfg, 'deploy')
