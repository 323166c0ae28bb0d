"""Training in bfloat16 on the CPU, compared with float32."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData, PixelData

from mmvanilla.deploy.accelerate import low_precision as precision
from mmvanilla.engine import BFloat16OptimWrapper

SIDE = 96
# A proposal near the threshold would be an object in one precision, and none in the other.
EXACT_BOXES = {
    f'train_cfg.rcnn.assigner.{name}': 0.95
    for name in ('pos_iou_thr', 'neg_iou_thr', 'min_pos_iou')
}


@pytest.fixture
def batch(small_config):
    def make(kind):
        if kind == 'upernet':
            from mmseg.structures import SegDataSample as Sample
        else:
            from mmdet.structures import DetDataSample as Sample
        generator = torch.Generator().manual_seed(0)
        images = [torch.randint(256, (3, SIDE, SIDE), generator=generator) for _ in range(2)]
        samples = []
        for _ in images:
            meta = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1, 1))
            sample = Sample(metainfo=meta)
            if kind == 'upernet':
                labels = torch.randint(4, (1, SIDE, SIDE), generator=generator)
                sample.gt_sem_seg = PixelData(data=labels)
            else:
                from mmdet.structures.bbox import HorizontalBoxes
                from mmdet.structures.mask import BitmapMasks

                masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
                masks[0, 10:40, 10:50] = masks[1, 30:90, 40:80] = 1
                sample.gt_instances = InstanceData(
                    bboxes=HorizontalBoxes([[10.0, 10, 50, 40], [40, 30, 80, 90]]),
                    labels=torch.tensor([0, 2]),
                    masks=BitmapMasks(masks.numpy(), SIDE, SIDE),
                )
            samples.append(sample)
        return dict(inputs=[image.byte() for image in images], data_samples=samples)

    return make


@pytest.mark.skipif(not precision.has_fast_bfloat16(), reason='no instructions for bfloat16')
@pytest.mark.parametrize('kind', ['mask_rcnn', 'retinanet', 'upernet'])
def test_losses_are_near_those_of_float32(kind, build, batch):
    def step(wrapper, dtype):
        model = build(kind, **(EXACT_BOXES if kind == 'mask_rcnn' else {})).train()
        seen = []
        model.backbone.stages[0].register_forward_hook(lambda *args: seen.append(args[-1].dtype))
        torch.manual_seed(0)  # heads draw samples of boxes
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        losses = model.train_step(batch(kind), wrapper(optimizer=optimizer))
        assert seen == [dtype]
        for parameter in model.parameters():
            assert parameter.dtype == torch.float32
            assert parameter.isfinite().all()
        return {name: value.item() for name, value in losses.items() if 'loss' in name}

    losses = step(OptimWrapper, torch.float32)
    rounded = step(BFloat16OptimWrapper, torch.bfloat16)
    assert losses.keys() == rounded.keys()
    assert losses != rounded
    for name, loss in losses.items():
        assert rounded[name] == pytest.approx(loss, rel=0.05, abs=0.02), name
