"""ResNet-50 with both ideas."""

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='TwoIdeas',
        deep_training=True,
        series_activation=True,
        net=dict(type='ResNet', depth=50),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
)
