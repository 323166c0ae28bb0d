"""VanillaNet-7 on ImageNet, by the published recipe."""

_base_ = [
    '_base_/classifier.py',
    '_base_/imagenet.py',
    '_base_/schedule_300e.py',
    '_base_/runtime_cls.py',
]
model = dict(backbone=dict(arch='7'), train_cfg=dict(augments=dict(alpha=0.4)))
optim_wrapper = dict(
    optimizer=dict(lr=4.7e-3, weight_decay=0.35),
    constructor='VanillaNetLayerDecayConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.8),
)
