"""Cascade Mask R-CNN, VanillaNet-13, COCO, with the schedule of Mask R-CNN's published recipe."""

_base_ = [
    '_base_/cascade_mask_rcnn.py',
    '_base_/coco_instance.py',
    '_base_/schedule_1x.py',
    '_base_/runtime_det.py',
]
