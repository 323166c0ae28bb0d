"""ImageNet with a BEiTv2-B as teacher: "vanilla KD" by the strategy A2 of arXiv 2305.15781.

Published there for other students: KL divergence at temperature 1 added to the binary cross-entropy
of mixed labels, LAMB with these rates, mixup 0.1 or cutmix 1.0, rand-augment m7-mstd0.5, repeated
augmentation, crop 0.95. Ours: that VanillaNets learn so, their dropout, deep training and averaged
weights, and no drop path. How the authors' file was trained is not published in detail.
"""

_base_ = ['classifier.py', 'imagenet.py', 'schedule_300e.py', 'runtime_cls.py']

model = dict(
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.1), dict(type='CutMix', alpha=1.0)],
    )
)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 236  # crop 0.95
train_dataloader = dict(batch_size=256, sampler=dict(type='RepeatAugSampler', num_repeats=3))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-3, weight_decay=0.02))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 2e-4  # from 1e-6
auto_scale_lr = dict(base_batch_size=2048)

# mmpretrain's zoo, 86.47 top-1.
default_hooks = dict(
    distill=dict(
        type='DistillHook',
        teacher='mmpretrain::beitv2/benchmarks/beit-base-p16_8xb64_in1k.py',
        teacher_checkpoint='https://download.openmmlab.com/mmclassification/v0/beit/'
        'beitv2-base_3rdparty_in1k_20221114-73e11905.pth',
        distill=[dict(type='KLDivergence', tau=1.0, loss_weight=1.0)],
    )
)
