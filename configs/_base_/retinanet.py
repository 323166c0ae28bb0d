"""RetinaNet with VanillaNet-13, levels at strides 8, 16, 32."""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

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
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    neck=dict(in_channels=[1024, 2048, 4096], start_level=0),
)
