"""UPerNet with mmpretrain's ConvNeXt-T on ADE20K, as mmseg has it, but tested in one piece."""

_base_ = 'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(test_cfg=dict(_delete_=True, mode='whole'))
