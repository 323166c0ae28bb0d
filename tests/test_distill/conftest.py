"""Narrow students, their teachers and batches of three tasks."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

SCOPES = dict(classifier='mmpretrain', retinanet='mmdet', mask_rcnn='mmdet', upernet='mmseg')


def classifier(dims=(8, 16, 32, 32), strides=(2, 2, 2), num_classes=3, **prepare):
    """Return the config of a small classifier; ``prepare`` changes its preprocessing."""
    normal = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
    return dict(
        type='ImageClassifier',
        data_preprocessor={**normal, 'num_classes': num_classes, **prepare},
        backbone=dict(
            type='VanillaNet',
            arch=dict(dims=list(dims), strides=list(strides)),
            out_indices=(len(strides),),
            act_num=1,
        ),
        head=dict(
            type='VanillaNetClsHead',
            num_classes=num_classes,
            in_channels=dims[-1],
            loss=dict(type='CrossEntropyLoss', use_soft=True),
        ),
        train_cfg=dict(augments=dict(type='Mixup', alpha=0.5)),
    )


@pytest.fixture
def model_cfg(small_config):
    """Return the config of a small model of a kind, after setting its library's scope."""

    def read(kind, **options):
        init_default_scope(SCOPES[kind])
        if kind == 'classifier':
            return classifier(**options)
        return small_config(kind, **options).model

    return read


@pytest.fixture
def teacher(trained, tmp_path):
    """Write the checkpoint of a model as if trained; return its path."""

    def save(cfg, name='teacher.pth', seed=1, **meta):
        torch.manual_seed(seed)
        model = trained(MODELS.build(cfg), seed)
        torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / name)
        return str(tmp_path / name)

    return save
