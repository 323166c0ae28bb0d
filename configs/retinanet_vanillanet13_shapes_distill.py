"""The shapes' RetinaNet at half its width, with that of full width as its teacher.

Train the teacher first: tools/train.py configs/retinanet_vanillanet13_shapes.py.
"""

_base_ = 'retinanet_vanillanet13_shapes.py'

model = dict(
    backbone=dict(arch=dict(dims=[32, 32, *[64] * 8, 128, 128])),
    neck=dict(in_channels=[64, 128, 128]),
)
default_hooks = dict(
    distill=dict(
        type='DistillHook',
        teacher='mmvanilla::retinanet_vanillanet13_shapes.py',
        teacher_checkpoint='work_dirs/retinanet_vanillanet13_shapes/epoch_5.pth',
    )
)
