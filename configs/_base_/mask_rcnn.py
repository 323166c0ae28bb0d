"""Mask R-CNN with VanillaNet-13 and a feature pyramid."""

_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(_delete_=True, type='VanillaNet', arch='13', act_num=4),
    neck=dict(in_channels=[512, 1024, 2048, 4096]),
)
