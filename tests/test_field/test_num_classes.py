"""Heads with another number of classes than the data, for heads of all libraries."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla import UserError
from mmvanilla.checks import report
from mmvanilla.engine.look import check_head_classes

# Classes of the training data of each config. Some have lists of heads, class-agnostic heads,
# branches for stuff and edges, or losses with a number of classes.
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
    """Build the model of a config on the meta device."""
    cfg = get_config(file) if '::' in file else Config.fromfile(file)
    change(cfg.model)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def check(model, number):
    """Check a model for data with a number of classes."""
    report(check_head_classes(model, number, number))


@pytest.mark.parametrize('file', FITTING)
def test_models_of_others_fit_their_own_data(file):
    model = build(file)
    labels = 0 if 'mmseg' in file else FITTING[file]  # of objects
    report(check_head_classes(model, labels, FITTING[file]))
    if labels and 'rpn_' not in file:  # class-agnostic
        with pytest.raises(UserError, match=f'is {labels}, but the data have labels of 2000'):
            check(model, 2000)


def set_shapes(**numbers):
    """Return a function that sets the classes of all heads to 6, or to the given numbers."""

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
        ('cascade_mask_rcnn', dict(bbox_head_2=4), r'roi_head.bbox_head\.2'),
        ('cascade_mask_rcnn', dict(mask_head_0=1), r'roi_head.mask_head\.0'),
    ],
)
def test_one_head_of_several_is_named(config, numbers, field):
    file = f'configs/{config}_vanillanet13.py'
    check(build(file, set_shapes()), 6)
    with pytest.raises(UserError, match=f'model.{field}.num_classes is'):
        check(build(file, set_shapes(**numbers)), 6)


def test_a_class_agnostic_mask_head_counts_nothing():
    def change(model):
        set_shapes(mask_head_0=1)(model)
        model.roi_head.mask_head.class_agnostic = True

    check(build('configs/mask_rcnn_vanillanet13.py', change), 6)
