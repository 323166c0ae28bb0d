"""AlexNet's convolutions with both ideas on small crops, in a minute."""

_base_ = ['_base_/alexnet.py', '_base_/small.py']

model = dict(
    backbone=dict(image_size=64, net=dict(num_classes=-1)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=6, in_channels=256, loss=dict(use_sigmoid=False)),
)
