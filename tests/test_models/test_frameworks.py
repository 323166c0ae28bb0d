"""Every variant makes a training step in Mask R-CNN, RetinaNet and UPerNet."""

from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmvanilla import ARCHS, VanillaNet

ROOT = Path(__file__).parents[2]
SIDE = 64


def build(name, arch):
    """Build a config's model with another variant, its neck and heads fitted to it."""
    cfg = Config.fromfile(ROOT / f'configs/{name}_vanillanet13.py')
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone
    backbone.update(arch=arch, init_cfg=None)
    with torch.device('meta'):
        channels = VanillaNet(
            arch, out_indices=backbone.get('out_indices', (0, 1, 2, 3))
        ).out_channels
    if name == 'upernet':
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
        cfg.model.decode_head.in_channels = list(channels)
        cfg.model.auxiliary_head.in_channels = channels[2]
    else:
        cfg.model.neck.in_channels = list(channels)
    return MODELS.build(cfg.model).train()


def batch(name):
    """Two random images with random annotation."""
    if name == 'upernet':
        samples = []
        for _ in range(2):
            label = PixelData(data=torch.randint(0, 150, (1, SIDE, SIDE)))
            meta = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE))
            samples.append(SegDataSample(gt_sem_seg=label, metainfo=meta))
        images = [torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)]
        return dict(inputs=images, data_samples=samples)
    return demo_mm_inputs(
        2, [(3, SIDE, SIDE)] * 2, num_items=[2, 2], num_classes=80, with_mask=True
    )


def step(name, arch):
    torch.manual_seed(0)
    model = build(name, arch)
    data = model.data_preprocessor(batch(name), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    for level, stage in enumerate(model.backbone.out_stages):
        stage_module = model.backbone.stages[stage] if stage >= 0 else model.backbone.stem2
        grads = [p.grad for p in stage_module.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in grads), level
        assert any(g.abs().max() > 0 for g in grads), level


@pytest.mark.parametrize('name', ['mask_rcnn', 'retinanet', 'upernet'])
def test_a_net_of_ones_own(name):
    step(name, dict(dims=[8, 8, 16, 24, 32], strides=[1, 2, 2, 2]))


@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', ['mask_rcnn', 'retinanet', 'upernet'])
def test_every_variant(name, arch):
    step(name, arch)
