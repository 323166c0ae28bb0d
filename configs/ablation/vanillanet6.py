"""VanillaNet-6 on ImageNet with both ideas; deep_training and series_activation switch them."""

_base_ = ['_base_/vanillanet6.py', '_base_/imagenet.py']

model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.15)))
