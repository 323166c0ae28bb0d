"""UPerNet with VanillaNet-13, an auxiliary FCN head on stride 16."""

_base_ = 'mmseg::_base_/models/upernet_swin.py'

# An ImageNet net trained with act_num=4 by distillation.
pretrained = (
    'https://github.com/huawei-noah/VanillaNet/releases/download/ckpt/'
    'vanillanet_13_act_num_4_kd_pretrain.pth'
)
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True,
        type='VanillaNet',
        arch='13',
        act_num=4,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    decode_head=dict(in_channels=[512, 1024, 2048, 4096], norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=2048, norm_cfg=norm_cfg),
)
