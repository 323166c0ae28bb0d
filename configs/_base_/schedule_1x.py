"""12 epochs of AdamW with layer-wise decay, as in the published recipe: 8 GPUs x 4 images."""

train_cfg = dict(type='ResumableEpochLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.3e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='VanillaNetLayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.6),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[10], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=32)
