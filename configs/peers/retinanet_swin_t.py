"""RetinaNet with Swin-T, as mmdet has it: a row of the paper's Table 4."""

_base_ = 'mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py'
