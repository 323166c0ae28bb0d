"""Faster R-CNN, VanillaNet-13, COCO, 12 epochs: the schedule published for Mask R-CNN.

No recipe was published for it; this one has not been run to its end.
"""

_base_ = [
    '_base_/faster_rcnn.py',
    '_base_/coco_detection.py',
    '_base_/schedule_1x.py',
    '_base_/runtime_det.py',
]
