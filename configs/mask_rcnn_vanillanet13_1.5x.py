"""Mask R-CNN with VanillaNet-13 1.5 times as wide; no weights were published for act_num=4."""

_base_ = 'mask_rcnn_vanillanet13.py'

pretrained = (
    'https://github.com/huawei-noah/VanillaNet/releases/download/ckpt/vanillanet_13_x1_5.pth'
)
model = dict(
    backbone=dict(arch='13-x1.5', init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[768, 1536, 3072, 6144]),
)
