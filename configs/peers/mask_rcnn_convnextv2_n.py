"""Mask R-CNN with mmpretrain's ConvNeXtV2-N: a row of the paper's Table 4."""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports='mmpretrain.models')
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='nano',
        use_grn=True,
        layer_scale_init_value=0.0,
        gap_before_final_norm=False,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
