"""UPerNet, VanillaNet-13, ADE20K, 160,000 iterations at 512 x 512: the field's conventions.

No recipe was published for VanillaNet; this one has not been run to its end.
"""

_base_ = [
    '_base_/upernet.py',
    '_base_/ade20k.py',
    '_base_/schedule_160k.py',
    '_base_/runtime_seg.py',
]

crop_size = (512, 512)
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
