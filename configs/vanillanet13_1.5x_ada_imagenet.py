"""VanillaNet-13-x1.5-ada on ImageNet, by VanillaNet-10's recipe, since none was published."""

_base_ = 'vanillanet10_imagenet.py'

model = dict(backbone=dict(arch='13-x1.5-ada'), head=dict(in_channels=6144))
