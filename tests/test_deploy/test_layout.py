"""Features for the operators of a compiled mmcv, which read any memory as (N, C, H, W)."""

import sys

import pytest
import torch

from mmvanilla import accelerate, fuse


def fast(model):
    return accelerate(model, dtype='fp32')


@pytest.mark.parametrize('make', [lambda model: model, fuse, fast], ids=['eval', 'fused', 'fast'])
def test_features_lie_in_memory_as_their_shape_says(make, build, monkeypatch):
    images = torch.rand(2, 3, 64, 96)
    usual = make(build('mask_rcnn'))
    with torch.no_grad():
        expected = usual.backbone(images), usual.extract_feat(images)
    monkeypatch.setattr('mmvanilla.models.vanillanet.MMCV_IS_COMPILED', True)
    monkeypatch.setattr(sys.modules[accelerate.__module__], 'mmcv_is_compiled', lambda: True)
    model = make(build('mask_rcnn'))
    with torch.no_grad():
        found = model.backbone(images), model.extract_feat(images)
    for levels, others in zip(found, expected, strict=True):
        for level, other in zip(levels, others, strict=True):
            assert level.is_contiguous()
            torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


def test_roi_align_takes_the_features_of_the_net(build):
    """As it takes them from (N, C, H, W) in memory; with a compiled mmcv it did not."""
    model = build('mask_rcnn')
    with torch.no_grad():
        levels = model.backbone(torch.rand(1, 3, 64, 96))
    align = model.roi_head.bbox_roi_extractor.roi_layers[0]
    boxes = torch.tensor([[0.0, 3, 5, 60, 50]])
    torch.testing.assert_close(align(levels[0], boxes), align(levels[0].contiguous(), boxes))
