"""UPerNet with a narrow VanillaNet-13 on a few ADE20K images, tested on the same ones."""

_base_ = '../../configs/upernet_vanillanet13.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=(512, 256), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(512, 256), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=3, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(
    data_preprocessor=dict(size=None, size_divisor=32),
    backbone=dict(
        arch=dict(
            _delete_=True,
            dims=[64, 64, 128, *[256] * 7, 512, 512],
            strides=[1, 2, 2, 1, 1, 1, 1, 1, 1, 2, 1],
        ),
        init_cfg=None,
    ),
    decode_head=dict(
        in_channels=[64, 128, 256, 512],
        channels=64,
        # By IoU too: three of the classes have a few hundred pixels among half a million.
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce'),
            dict(type='LovaszLoss', reduction='none', loss_name='loss_lovasz'),
        ],
    ),
    auxiliary_head=dict(in_channels=256, channels=64),
)
train_cfg = dict(max_iters=500, val_interval=500)
optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=30, end=500),
]
default_hooks = dict(checkpoint=dict(interval=500, save_best=None))
