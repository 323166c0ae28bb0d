"""A narrow UPerNet on the embedded shapes, its types as classes."""

from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize, TestTimeAug
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor, SegTTAModel, UPerHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.visualization import SegLocalVisualizer
from torch.nn import BatchNorm2d

from mmvanilla import VanillaNet

with read_base():
    from .runtime import *  # noqa: F403

data_root = 'data/shapes/ADEChallengeData2016'
classes = ('background', 'circle', 'square', 'triangle', 'star', 'cross', 'crescent')
metainfo = dict(classes=classes, palette=[(40 * i, 255 - 40 * i, 90) for i in range(7)])
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(type=Resize, scale=(96, 96), keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackSegInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(96, 96), keep_ratio=True),
    dict(type=LoadAnnotations),
    dict(type=PackSegInputs),
]
tta_model = dict(type=SegTTAModel)
tta_pipeline = [
    dict(type=LoadImageFromFile),
    dict(
        type=TestTimeAug,
        transforms=[
            [dict(type=Resize, scale=(96, 96), keep_ratio=True)],
            [dict(type=RandomFlip, prob=0.0), dict(type=RandomFlip, prob=1.0)],
            [dict(type=LoadAnnotations)],
            [dict(type=PackSegInputs)],
        ],
    ),
]
dataset = dict(
    type=BaseSegDataset,
    data_root=data_root,
    metainfo=metainfo,
    reduce_zero_label=True,
    seg_map_suffix='.png',
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
default_hooks.update(visualization=dict(type=SegVisualizationHook))  # noqa: F405
visualizer = dict(type=SegLocalVisualizer)
norm_cfg = dict(type=BatchNorm2d)
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=SegDataPreProcessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(96, 96),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type=VanillaNet, arch=dict(dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2]), act_num=1
    ),
    decode_head=dict(
        type=UPerHead,
        in_channels=[16, 24, 32, 32],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2),
        channels=16,
        num_classes=7,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss),
    ),
    auxiliary_head=dict(
        type=FCNHead,
        in_channels=32,
        in_index=2,
        channels=16,
        num_convs=1,
        num_classes=7,
        norm_cfg=norm_cfg,
        loss_decode=dict(type=CrossEntropyLoss, loss_weight=0.4),
    ),
    test_cfg=dict(mode='whole'),
)
