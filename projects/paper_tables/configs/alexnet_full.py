"""AlexNet on ImageNet with both ideas; deep_training and series_activation switch them."""

_base_ = ['_base_/alexnet.py', '_base_/full.py']

model = dict(
    head=dict(loss=dict(loss_weight=1 / 1000)),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.15)),
)
