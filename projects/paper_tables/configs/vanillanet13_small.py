"""The narrow VanillaNet-13 of the detectors on the shapes as a classifier, on crops in colour."""

_base_ = '_base_/small.py'

train_pipeline = _base_.train_dataloader.dataset.pipeline
test_pipeline = _base_.val_dataloader.dataset.pipeline
for pipeline in (train_pipeline, test_pipeline):
    for transform in pipeline:
        if transform['type'] == 'RandomGrayscale':
            transform['prob'] = 0.0
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VanillaNet',
        arch=dict(
            dims=[64, 64, *[128] * 8, 256, 256],
            strides=[1, 2, 1, 1, 1, 1, 1, 1, 1, 2, 2],
        ),
        out_indices=(3,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=6, in_channels=256),
)
default_hooks = dict(
    checkpoint=dict(
        _delete_=True,
        type='AtomicCheckpointHook',
        interval=200,
        by_epoch=False,
        save_optimizer=False,
    )
)
