"""The shapes' Mask R-CNN, from a checkpoint that was trained on other scenes: what the demo trains.

How the checkpoint was made is in docs/training.md.
"""

_base_ = 'mask_rcnn_vanillanet13_shapes.py'

load_from = '{{ fileDirname }}/weights/mask_rcnn_vanillanet13_shapes.pth'
train_dataloader = dict(dataset=dict(indices=800))  # half of the images: 100 steps an epoch
train_cfg = dict(max_epochs=2)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=2,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
