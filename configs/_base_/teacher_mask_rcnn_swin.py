"""A Mask R-CNN Swin-S of mmdet's zoo (48.2 box AP on COCO) as teacher, by PKD on the necks.

The loss is as in mmrazor's config for the same teacher: the first four levels, weight 6 each.
"""

teacher = dict(
    type='DistillHook',
    teacher='mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py',
    teacher_checkpoint='https://download.openmmlab.com/mmdetection/v2.0/swin/'
    'mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/'
    'mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth',
    distill=[dict(type='PKDLoss', levels=4, loss_weight=6.0)],
)
