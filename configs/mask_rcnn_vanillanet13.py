"""Mask R-CNN, VanillaNet-13, COCO, 12 epochs: the published recipe."""

_base_ = [
    '_base_/mask_rcnn.py',
    '_base_/coco_instance.py',
    '_base_/schedule_1x.py',
    '_base_/runtime_det.py',
]
