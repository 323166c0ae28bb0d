"""A narrow VanillaNet-6 with both ideas on small crops, in a minute."""

_base_ = ['_base_/vanillanet6.py', '_base_/small.py']

model = dict(
    backbone=dict(
        image_size=64,
        net=dict(arch=dict(_delete_=True, dims=(64, 128, 256, 512, 512), strides=(2, 2, 2, 1))),
    ),
    head=dict(num_classes=6, in_channels=512, loss=dict(use_sigmoid=False)),
)
