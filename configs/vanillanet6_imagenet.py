"""VanillaNet-6 on ImageNet, by the published recipe."""

_base_ = [
    '_base_/classifier.py',
    '_base_/imagenet.py',
    '_base_/schedule_300e.py',
    '_base_/runtime_cls.py',
]
model = dict(backbone=dict(arch='6'), train_cfg=dict(augments=dict(alpha=0.15)))
optim_wrapper = dict(
    optimizer=dict(lr=4.8e-3, weight_decay=0.32),
    constructor='VanillaNetLayerDecayConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.8),
)
