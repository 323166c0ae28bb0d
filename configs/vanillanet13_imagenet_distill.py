"""VanillaNet-13 with act_num 4 on ImageNet, with a BEiTv2-B as its teacher.

The published detectors start from such a net. The recipe is ours where the authors publish none,
see _base_/distill_imagenet.py, and has not been run to its end.
"""

_base_ = '_base_/distill_imagenet.py'

model = dict(backbone=dict(arch='13', act_num=4))
