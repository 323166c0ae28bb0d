"""VanillaNet-13 on ImageNet, by VanillaNet-10's recipe, since none was published."""

_base_ = 'vanillanet10_imagenet.py'

model = dict(backbone=dict(arch='13'))
