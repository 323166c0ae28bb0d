"""Mask R-CNN, VanillaNet-13, COCO, 12 epochs, with a Mask R-CNN Swin-S as its teacher.

The authors publish no detector with a teacher; the recipe is ours, and has not been run to its end.
"""

_base_ = ['mask_rcnn_vanillanet13.py', '_base_/teacher_mask_rcnn_swin.py']

default_hooks = dict(distill=_base_.teacher)
