"""The shapes' Mask R-CNN at half its width, with that of full width as its teacher.

Train the teacher first: tools/train.py configs/mask_rcnn_vanillanet13_shapes.py.
"""

_base_ = 'mask_rcnn_vanillanet13_shapes.py'

model = dict(
    backbone=dict(arch=dict(dims=[32, 32, *[64] * 8, 128, 128])),
    neck=dict(in_channels=[32, 64, 128, 128]),
)
default_hooks = dict(
    distill=dict(
        type='DistillHook',
        teacher='mmvanilla::mask_rcnn_vanillanet13_shapes.py',
        teacher_checkpoint='work_dirs/mask_rcnn_vanillanet13_shapes/epoch_4.pth',
    )
)
