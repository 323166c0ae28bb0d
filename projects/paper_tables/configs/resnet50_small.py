"""ResNet-50 of a quarter of the width with both ideas on small crops, in minutes."""

_base_ = ['_base_/resnet50.py', '_base_/small.py']

model = dict(
    backbone=dict(image_size=64, net=dict(base_channels=16, stem_channels=16)),
    head=dict(num_classes=6, in_channels=512, loss=dict(use_sigmoid=False)),
)
