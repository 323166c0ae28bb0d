"""The recipe of VanillaNet-5 on pictures of three textures, narrow and small."""

_base_ = '../../configs/vanillanet5_imagenet.py'

classes = ('noise', 'plain', 'stripes')
model = dict(
    data_preprocessor=dict(num_classes=3),
    backbone=dict(arch=dict(_delete_=True, dims=[8, 16, 32, 64], strides=[2, 2, 2]), act_num=1),
    head=dict(num_classes=3, in_channels=64, loss=dict(loss_weight=1 / 3)),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 64
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 72
test_pipeline[2].crop_size = 64
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(metainfo=dict(classes=classes), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(metainfo=dict(classes=classes), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=8)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
custom_hooks = _base_.custom_hooks
custom_hooks[2].update(end=6, by_epoch=False)
custom_hooks[3].momentum = 0.2
