"""UPerNet with a narrow VanillaNet-13 on the embedded shapes, from scratch, in minutes."""

_base_ = ['_base_/upernet.py', '_base_/shapes_semantic.py', '_base_/runtime_seg.py']

model = dict(
    data_preprocessor=dict(size=(160, 160)),
    backbone=dict(
        arch=dict(
            _delete_=True,
            dims=[64, 64, 128, *[256] * 7, 512, 512],
            strides=[1, 2, 2, 1, 1, 1, 1, 1, 1, 2, 1],
        ),
        act_num=3,
        init_cfg=None,
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512], channels=64, num_classes=7),
    auxiliary_head=dict(in_channels=256, channels=64, num_classes=7),
)

train_cfg = dict(type='ResumableIterLoop', max_iters=760, val_interval=380)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='PolyLR', power=0.9, eta_min=1e-5, by_epoch=False, begin=40, end=760),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=380))
log_processor = dict(window_size=10)
# Deep training: the ReLU between two convolutions is annealed in the first third.
custom_hooks = [
    dict(type='ReseedHook'),
    dict(type='CheckWeightsHook'),
    dict(type='CheckLabelsHook'),
    dict(type='DeepTrainingHook', end=253, by_epoch=False),
]
