"""The shapes' UPerNet at half its width, with that of full width as its teacher.

Train the teacher first: tools/train.py configs/upernet_vanillanet13_shapes.py.
"""

_base_ = 'upernet_vanillanet13_shapes.py'

model = dict(
    backbone=dict(arch=dict(dims=[32, 32, 64, *[128] * 7, 256, 256])),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
    auxiliary_head=dict(in_channels=128),
)
default_hooks = dict(
    distill=dict(
        type='DistillHook',
        teacher='mmvanilla::upernet_vanillanet13_shapes.py',
        teacher_checkpoint='work_dirs/upernet_vanillanet13_shapes/iter_760.pth',
    )
)
