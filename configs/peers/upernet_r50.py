"""UPerNet with ResNet-50 on ADE20K, as mmseg has it."""

_base_ = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'
