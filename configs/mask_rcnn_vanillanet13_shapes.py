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
            dims=[64, 64, *[128] * 8, 256, 256],
            strides=[1, 2, 1, 1, 1, 1, 1, 1, 1, 2, 2],  # the long stage at stride 8
        ),
        act_num=3,
        init_cfg=None,
    ),
    neck=dict(
        in_channels=[64, 128, 256, 256], out_channels=64, num_outs=4, norm_cfg=dict(type='BN')
    ),
    rpn_head=dict(
        in_channels=64,
        feat_channels=32,
        # Boxes of 20 to 90 pixels, about as wide as high.
        anchor_generator=dict(scales=[6], ratios=[1.0], strides=[4, 8, 16, 32]),
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
            reg_decoded_bbox=True,
            loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=10.0),
            norm_cfg=dict(type='BN'),
        ),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=6,
            upsample_cfg=dict(type='bilinear', scale_factor=2),
            norm_cfg=dict(type='BN'),
        ),
    ),
    train_cfg=dict(
        # With one anchor a cell, few overlap an object by more.
        rpn=dict(assigner=dict(pos_iou_thr=0.5, neg_iou_thr=0.4), sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50)),
)
optim_wrapper = dict(clip_grad=dict(max_norm=30))
# Without DeepTrainingHook: in one comparison this detector was better without it.
custom_hooks = [
    dict(type='ReseedHook'),
    dict(type='CheckWeightsHook'),
    dict(type='LogPicturesHook'),
]
