"""A head with another number of classes than the data, in every library and for every head."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

import mmvanilla
from mmvanilla import UserError
from mmvanilla.engine import check_classes

# What each of these configs of others is trained on has so many classes; beside the usual heads
# there are lists of heads, class-agnostic ones, branches for stuff and edges, losses that count.
FITTING = {
    'mmdet::htc/htc_r50_fpn_1x_coco.py': 80,
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': 80,
    'mmdet::rpn/rpn_r50_fpn_1x_coco.py': 80,
    'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py': 80,
    'mmdet::yolact/yolact_r50_1xb8-55e_coco.py': 80,
    'mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py': 1203,
    'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py': 19,
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py': 19,
}


def build(file, change=lambda model: None):
    """Build the model of a config, without memory for its weights."""
    cfg = get_config(file) if '::' in file else Config.fromfile(file)
    change(cfg.model)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def check(model, number):
    dataset = SimpleNamespace(metainfo=dict(classes=[f'class {i}' for i in range(number)]))
    check_classes(model, dataset, 'train')


@pytest.mark.parametrize('file', FITTING)
def test_models_of_others_fit_their_own_data(file):
    model = build(file)
    check(model, FITTING[file])
    if 'rpn_' not in file:  # it finds objects of whatever class
        with pytest.raises(UserError, match=f'is {FITTING[file]}, but the data of train have 6'):
            check(model, 6)


def set_shapes(**numbers):
    """Return the change that makes a model of COCO one of the shapes, but for what is given."""

    def change(model):
        for name, default in dict(bbox_head=6, mask_head=6).items():
            heads = model.roi_head.get(name)
            for i, head in enumerate(heads if isinstance(heads, list) else [heads]):
                head.num_classes = numbers.get(f'{name}_{i}', default)

    return change


@pytest.mark.parametrize(
    ('config', 'numbers', 'field'),
    [
        ('mask_rcnn', dict(bbox_head_0=5), 'roi_head.bbox_head'),
        ('mask_rcnn', dict(mask_head_0=5), 'roi_head.mask_head'),
        ('mask_rcnn', dict(mask_head_0=80), 'roi_head.mask_head'),
        ('cascade_mask_rcnn', dict(bbox_head_2=80), r'roi_head.bbox_head\.2'),
        ('cascade_mask_rcnn', dict(mask_head_0=80), r'roi_head.mask_head\.0'),
    ],
)
def test_one_head_of_several_is_named(config, numbers, field):
    file = f'configs/{config}_vanillanet13.py'
    check(build(file, set_shapes()), 6)
    with pytest.raises(UserError, match=f'model.{field}.num_classes=6'):
        check(build(file, set_shapes(**numbers)), 6)


def test_a_class_agnostic_mask_head_counts_nothing():
    def change(model):
        set_shapes(mask_head_0=80)(model)
        model.roi_head.mask_head.class_agnostic = True

    check(build('configs/mask_rcnn_vanillanet13.py', change), 6)


@pytest.mark.parametrize('number', [5, 80])
@pytest.mark.parametrize('config', ['retinanet_vanillanet13_shapes', 'upernet_vanillanet13_shapes'])
def test_training_stops_before_its_first_step(config, number, run_tool, tmp_path):
    data = mmvanilla.make_shapes(tmp_path / 'shapes', train=2, val=1, size=64)
    head = 'bbox_head' if 'retinanet' in config else 'auxiliary_head'
    root = data / ('coco' if 'retinanet' in config else 'ADEChallengeData2016')
    code, _, error = run_tool(
        'train.py',
        f'configs/{config}.py',
        *('--work-dir', tmp_path / 'work', '--data-root', root, '--cfg-options'),
        *('model.backbone.arch.dims=[8,8,8,8,8]', 'model.backbone.arch.strides=[1,2,2,2]'),
        'model.neck.in_channels=[8,8,8]'
        if head == 'bbox_head'
        else 'model.decode_head.in_channels=[8,8,8,8]',
        *([] if head == 'bbox_head' else ['model.auxiliary_head.in_channels=8']),
        *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
        *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
        f'model.{head}.num_classes={number}',
    )
    assert code == 2
    (line,) = [line for line in error.splitlines() if 'error: ' in line]
    classes = 6 if head == 'bbox_head' else 7
    assert f'model.{head}.num_classes={classes}' in line
    assert 'Traceback' not in error
