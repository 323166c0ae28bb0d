"""Batches of three tasks."""

import torch
from mmengine.structures import PixelData

SIDE = 64


def batch_of(kind, seed=0):
    """Return a batch of two images as a data loader gives it."""
    torch.manual_seed(seed)
    images = [torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)]
    if kind == 'classifier':
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(label) for label in (0, 2)]
    elif kind == 'upernet':
        from mmseg.structures import SegDataSample

        samples = []
        for _ in images:
            sample = SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE)))
            sample.gt_sem_seg = PixelData(data=torch.randint(4, (1, SIDE, SIDE)))
            samples.append(sample)
    else:
        from mmdet.testing import demo_mm_inputs

        shapes = [(3, SIDE, SIDE)] * 2
        return demo_mm_inputs(2, shapes, num_items=[2, 1], num_classes=6, with_mask=True)
    return dict(inputs=images, data_samples=samples)
