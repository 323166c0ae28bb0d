"""Objects cut out of the embedded shapes, in grey; 200 steps, about a minute of a core."""

_base_ = '../../../../configs/_base_/runtime.py'

custom_imports = dict(imports=['mmvanilla', 'projects.paper_tables.nets'])
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=6, mean=[127.5] * 3, std=[64.0] * 3, to_rgb=True)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomGrayscale', prob=1.0, keep_channels=True),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root='data/crops',
        data_prefix='train',
        pipeline=[
            pipeline[0],
            dict(
                type='RandomFlip',
                prob=[0.25, 0.25, 0.25],
                direction=['horizontal', 'vertical', 'diagonal'],
            ),
            *pipeline[1:],
        ],
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset', data_root='data/crops', data_prefix='val', pipeline=pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

train_cfg = dict(type='ResumableIterLoop', max_iters=200, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=200, eta_min=1e-5),
]
default_hooks = dict(checkpoint=None)
log_processor = dict(by_epoch=False)
custom_hooks = [
    dict(type='ReseedHook'),
    dict(type='DeepTrainingHook', end=67, by_epoch=False),
]
