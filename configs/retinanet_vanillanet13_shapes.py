"""RetinaNet with a narrow VanillaNet-13 on the embedded shapes, from scratch, in minutes."""

_base_ = [
    '_base_/retinanet.py',
    '_base_/shapes_detection.py',
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
    neck=dict(in_channels=[128, 256, 256], out_channels=64, num_outs=3, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='BN'),
        reg_decoded_bbox=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        # Boxes of 20 to 90 pixels, about as wide as high.
        anchor_generator=dict(octave_base_scale=4, ratios=[1.0], strides=[8, 16, 32]),
    ),
)

# Epochs of 100 steps.
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=5, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=5,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
