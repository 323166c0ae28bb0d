"""VanillaNet-6 with both ideas; PlainNet is the net without."""

_base_ = 'two_ideas.py'

model = dict(
    backbone=dict(net=dict(type='PlainNet', arch='6', shortcut=None)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=4096,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
)
