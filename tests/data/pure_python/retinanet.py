"""A narrow RetinaNet, its types as classes, behind the names of their modules."""

import mmdet.models
from mmdet.models.task_modules import (
    AnchorGenerator,
    DeltaXYWHBBoxCoder,
    MaxIoUAssigner,
    PseudoSampler,
)
from mmengine.config import read_base

from mmvanilla import VanillaNet

with read_base():
    from .shapes_coco import *  # noqa: F403

train_pipeline[1].update(with_mask=False)  # noqa: F405
test_pipeline[2].update(with_mask=False)  # noqa: F405
val_evaluator.update(metric='bbox')  # noqa: F405
test_evaluator = val_evaluator  # noqa: F405
model = dict(
    type=mmdet.models.RetinaNet,
    data_preprocessor=dict(
        type=mmdet.models.DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type=VanillaNet,
        arch=dict(dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2]),
        out_indices=(1, 2, 3),
        act_num=1,
    ),
    neck=dict(type=mmdet.models.FPN, in_channels=[24, 32, 32], out_channels=16, num_outs=5),
    bbox_head=dict(
        type=mmdet.models.RetinaHead,
        num_classes=6,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type=AnchorGenerator,
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[1.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=mmdet.models.FocalLoss),
        loss_bbox=dict(type=mmdet.models.L1Loss),
    ),
    train_cfg=dict(
        assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type=PseudoSampler),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20,
    ),
)
