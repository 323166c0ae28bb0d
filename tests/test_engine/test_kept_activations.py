"""Detectors of mmdet that keep activations, trained and validated with a VanillaNet."""

from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvanilla import make_shapes

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
STOCK = {
    'condinst': 'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'yolact': 'yolact/yolact_r50_1xb8-55e_coco.py',
}


class Twins(Hook):
    """Record whether a validation uses the fused twin."""

    def __init__(self):
        self.fused = []

    def before_val_iter(self, runner, **kwargs):
        self.fused.append(runner.model.backbone.twin is not None)


@pytest.mark.parametrize('name', STOCK)
def test_validation_within_training(name, small_config, tmp_path):
    data = make_shapes(tmp_path / 'shapes', train=2, val=1, size=96) / 'coco'
    cfg = small_config('mask_rcnn')
    backbone, classes = cfg.model.backbone, cfg.model.roi_head.bbox_head.num_classes
    model = Config.fromfile(CONFIGS / STOCK[name]).model
    model.backbone = dict(backbone, norm_eval=False, frozen_stages=-1, init_cfg=None)
    model.neck.in_channels = cfg.model.neck.in_channels
    for head in (model.bbox_head, model.mask_head):
        if 'num_classes' in head:
            head.num_classes = classes
    cfg.model = model
    for part in ('train', 'val'):
        loader = cfg[f'{part}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=1)
        loader.dataset.data_root = f'{data}/'
    cfg.val_evaluator.ann_file = str(data / 'annotations/instances_val2017.json')
    cfg.update(custom_hooks=[], test_dataloader=None, test_evaluator=None, test_cfg=None)
    cfg.default_hooks = dict(deploy=dict(type='SwitchToDeployHook'))
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    cfg.param_scheduler = None
    cfg.update(work_dir=str(tmp_path / 'work'), auto_scale_lr=None)
    runner = Runner.from_cfg(cfg)
    twins = Twins()
    runner.register_hook(twins)
    runner.train()
    assert twins.fused == [True]
    assert runner.model.backbone.twin is None
