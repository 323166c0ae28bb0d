"""The shapes' Mask R-CNN with a pretrained backbone and neck, for the demo.

The heads start from scratch. docs/training.md describes how the weights were made.
"""

_base_ = 'mask_rcnn_vanillanet13_shapes.py'

load_from = '{{ fileDirname }}/weights/backbone_and_neck_shapes.pth'
train_dataloader = dict(dataset=dict(indices=960))  # 120 steps an epoch
train_cfg = dict(max_epochs=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=3,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
