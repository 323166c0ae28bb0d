"""A tiny RetinaNet on tiny shapes: every part of a training, deep training and averaging too."""

_base_ = '../../configs/retinanet_vanillanet13_shapes.py'

model = dict(
    backbone=dict(arch=dict(dims=[8, 8, 16, 16, 16], strides=[1, 2, 2, 2]), act_num=1),
    neck=dict(in_channels=[16, 16, 16], out_channels=16, num_outs=3),
    bbox_head=dict(
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(strides=[8, 16, 32]),
    ),
)
scale = dict(type='Resize', scale=(64, 64), keep_ratio=True)
train_pipeline = _base_.train_pipeline
train_pipeline[2] = scale
test_pipeline = _base_.test_pipeline
test_pipeline[1] = scale
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(pipeline=test_pipeline))
train_dataloader.update(persistent_workers=False)
val_dataloader.update(persistent_workers=False)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=2, val_interval=100)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20)]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=1, by_epoch=False, max_keep_ckpts=2)
)
log_processor = dict(window_size=1)
custom_hooks = [
    dict(type='ReseedHook'),
    dict(type='CheckWeightsHook'),
    dict(type='DeepTrainingHook', end=8, by_epoch=False),
    dict(type='EMAHook', momentum=0.1),
]
