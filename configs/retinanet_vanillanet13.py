"""RetinaNet, VanillaNet-13, COCO, 12 epochs: the published recipe."""

_base_ = [
    '_base_/retinanet.py',
    '_base_/coco_detection.py',
    '_base_/schedule_1x.py',
    '_base_/runtime_det.py',
]

optim_wrapper = dict(optimizer=dict(lr=8e-5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[10, 11], gamma=0.1),
]
