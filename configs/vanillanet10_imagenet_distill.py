"""VanillaNet-10 on ImageNet, with a BEiTv2-B as its teacher: ours, not run to its end.

--cfg-options model.backbone.arch=5 trains VanillaNet-5, and so on.
"""

_base_ = '_base_/distill_imagenet.py'

model = dict(backbone=dict(arch='10'))
