"""Mask R-CNN with a narrow VanillaNet-13 on the embedded shapes, from scratch, in minutes."""

_base_ = [
    '_base_/mask_rcnn.py',
    '_base_/shapes_instance.py',
    '_base_/schedule_shapes.py',
    '_base_/runtime_shapes_det.py',
]

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            dims=[64, 64, 128, *[256] * 7, 512, 512],
            strides=[1, 2, 2, 1, 1, 1, 1, 1, 1, 2, 1],
        ),
        act_num=3,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64, norm_cfg=dict(type='BN')),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            num_classes=6,
            reg_class_agnostic=True,
            norm_cfg=dict(type='BN'),
        ),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(
            num_convs=3,
            in_channels=64,
            conv_out_channels=64,
            num_classes=6,
            norm_cfg=dict(type='BN'),
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
# From scratch, but without the DeepTrainingHook: in 800 iterations this detector does better
# without (docs/deep_training.md).
