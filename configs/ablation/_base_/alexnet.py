"""AlexNet, its three fully connected layers included, with both ideas in its convolutions."""

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='TwoIdeas',
        deep_training=True,
        series_activation=True,
        net=dict(type='AlexNet', num_classes=1000),
    ),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
)
