"""A narrow classifier of images in a folder a class, its types as classes."""

from mmcv.transforms import LoadImageFromFile
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import CustomDataset, PackInputs, ResizeEdge
from mmpretrain.datasets.transforms import CenterCrop
from mmpretrain.engine.hooks import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier
from mmpretrain.models.losses import CrossEntropyLoss
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.visualization import UniversalVisualizer

from mmvanilla import VanillaNet
from mmvanilla.models.cls_head import VanillaNetClsHead

with read_base():
    from .runtime import *  # noqa: F403

data_root = 'data/textures'
pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=ResizeEdge, scale=72),
    dict(type=CenterCrop, crop_size=64),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=CustomDataset, data_root=data_root, data_prefix='train', pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=CustomDataset, data_root=data_root, data_prefix='val', pipeline=pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy, topk=(1,))
test_evaluator = val_evaluator
default_hooks.update(visualization=dict(type=VisualizationHook))  # noqa: F405
visualizer = dict(type=UniversalVisualizer)
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(
        type=ClsDataPreprocessor,
        num_classes=2,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type=VanillaNet, arch=dict(dims=[8, 16, 24, 32], strides=[2, 2, 2]), out_indices=(3,)
    ),
    head=dict(
        type=VanillaNetClsHead,
        num_classes=2,
        in_channels=32,
        loss=dict(type=CrossEntropyLoss),
    ),
)
