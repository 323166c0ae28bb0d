"""ImageNet by VanillaNet-6's recipe, without the layer decay, which knows VanillaNet alone."""

_base_ = [
    '../../../../configs/_base_/imagenet.py',
    '../../../../configs/_base_/schedule_300e.py',
    '../../../../configs/_base_/runtime_cls.py',
]
custom_imports = dict(imports=['mmvanilla', 'projects.paper_tables.nets'])
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
train_cfg = dict(val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=4.8e-3, weight_decay=0.32))
