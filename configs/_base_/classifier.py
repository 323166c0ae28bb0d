"""An ImageNet classifier: VanillaNet's last level and its head, trained from scratch."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(type='VanillaNet', arch='13', out_indices=(3,)),
    head=dict(
        type='VanillaNetClsHead',
        num_classes=1000,
        in_channels=4096,
        drop_rate=0.05,
        # The mean over the classes, as is the convention; mmpretrain sums over them, and LAMB clips
        # gradients, so that the scale counts.
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1 / 1000),
    ),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.4)),
)
