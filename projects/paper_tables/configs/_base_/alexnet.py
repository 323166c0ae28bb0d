"""AlexNet, its three fully connected layers included, with both ideas in its convolutions."""

_base_ = 'two_ideas.py'

model = dict(
    backbone=dict(net=dict(type='AlexNet', num_classes=1000)),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
)
