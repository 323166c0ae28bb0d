"""Mask R-CNN with a narrow VanillaNet-13 on the embedded shapes, from scratch, in minutes."""

_base_ = ['_base_/mask_rcnn.py', '_base_/shapes_instance.py', '_base_/default_runtime.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            dims=[64, 64, 128, *[256] * 7, 512, 512],
            strides=[1, 2, 2, 1, 1, 1, 1, 1, 1, 2, 1],
        ),
        act_num=3,
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
        rcnn=dict(sampler=dict(num=64, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=16, val_interval=8)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=16,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=10))
log_processor = dict(window_size=10)
