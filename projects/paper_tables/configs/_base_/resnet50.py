"""ResNet-50 with both ideas."""

_base_ = 'two_ideas.py'

model = dict(
    backbone=dict(net=dict(type='ResNet', depth=50)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
)
