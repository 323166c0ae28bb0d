"""Mask R-CNN, VanillaNet-13, COCO, 12 epochs: the published recipe."""

_base_ = [
    '_base_/mask_rcnn.py',
    '_base_/coco_instance.py',
    '_base_/schedule_1x.py',
    '_base_/default_runtime.py',
]

# An ImageNet net trained with act_num=4 by distillation.
pretrained = (
    'https://github.com/huawei-noah/VanillaNet/releases/download/ckpt/'
    'vanillanet_13_act_num_4_kd_pretrain.pth'
)
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=pretrained)))
sync_bn = 'torch'  # synchronise the batch norms wherever training is distributed
