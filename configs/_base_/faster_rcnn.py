"""Faster R-CNN with VanillaNet-13 and a feature pyramid, for boxes without masks."""

_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'

# An ImageNet net trained with act_num=4 by distillation.
pretrained = (
    'https://github.com/huawei-noah/VanillaNet/releases/download/ckpt/'
    'vanillanet_13_act_num_4_kd_pretrain.pth'
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='VanillaNet',
        arch='13',
        act_num=4,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[512, 1024, 2048, 4096]),
)
