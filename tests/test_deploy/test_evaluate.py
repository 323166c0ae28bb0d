"""Metrics of a part of the validation data, against mmengine's runner on that part alone."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmvanilla.cli import set_data_root
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.evaluate import evaluate
from mmvanilla.errors import UserError

NUMBER, IMAGES = 3, 5


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes'), train=1, val=IMAGES, size=96)


def config_of(small_config, kind, folder):
    cfg = small_config(kind)
    set_data_root(cfg, str(folder))
    init_default_scope(cfg.default_scope)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False, batch_size=1)
    return cfg


class Oracle(torch.nn.Module):
    """Finds what is there, but in every second image something else besides."""

    def __init__(self, dataset):
        super().__init__()
        self.truths = {info['img_id']: info['instances'] for info in dataset}

    def test_step(self, batch):
        for sample in batch['data_samples']:
            there = self.truths[sample.img_id]
            boxes = torch.tensor([instance['bbox'] for instance in there]).float()
            labels = torch.tensor([instance['bbox_label'] for instance in there])
            if sample.img_id % 2:
                labels = (labels + 1) % 6
            masks = torch.zeros(len(there), *sample.ori_shape, dtype=torch.bool)
            scores = torch.linspace(0.9, 0.5, len(there))
            sample.pred_instances = InstanceData(
                bboxes=boxes, labels=labels, scores=scores, masks=masks
            )
        return batch['data_samples']


def test_the_first_images_count_and_no_others(small_config, shapes, tmp_path):
    """As if the annotation file had had these images only."""
    cfg = config_of(small_config, 'retinanet', shapes / 'coco')
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    oracle = Oracle([dataset.get_data_info(i) for i in range(IMAGES)])
    found = evaluate(cfg, oracle, NUMBER)
    every = evaluate(cfg, oracle)
    assert list(found) == list(every) == ['coco/bbox_mAP']
    assert found != every

    file = cfg.val_evaluator.ann_file
    content = json.loads(Path(file).read_text())
    ids = [dataset.get_data_info(i)['img_id'] for i in range(NUMBER)]
    content['images'] = [image for image in content['images'] if image['id'] in ids]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    (tmp_path / 'part.json').write_text(json.dumps(content))
    cfg.val_dataloader.dataset.ann_file = str(tmp_path / 'part.json')
    cfg.val_evaluator.ann_file = str(tmp_path / 'part.json')
    assert evaluate(cfg, oracle) == found


def test_images_are_tested_one_by_one(small_config, shapes):
    """In a batch images are padded to the largest, and exported models take single ones."""
    cfg = config_of(small_config, 'retinanet', shapes / 'coco')
    cfg.val_dataloader.batch_size = 2
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    seen = []

    class Watched(Oracle):
        def test_step(self, batch):
            seen.append(len(batch['inputs']))
            return super().test_step(batch)

    evaluate(cfg, Watched([dataset.get_data_info(i) for i in range(IMAGES)]), NUMBER)
    assert seen == [1] * NUMBER


def test_metrics_are_those_of_a_runner(small_config, build, shapes, tmp_path):
    cfg = config_of(small_config, 'upernet', shapes / 'ADEChallengeData2016')
    model = build('upernet')
    cfg.update(work_dir=str(tmp_path), experiment_name='evaluate', custom_hooks=[], load_from=None)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.default_hooks = {}
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    cfg.load_from = str(tmp_path / 'model.pth')
    expected = Runner.from_cfg(cfg).test()
    assert evaluate(cfg, model) == {'mIoU': pytest.approx(expected['mIoU'] / 100, abs=1e-4)}


def test_what_cannot_be_judged(small_config, shapes, tmp_path):
    cfg = config_of(small_config, 'retinanet', shapes / 'coco')
    without = Config(
        {k: v for k, v in cfg.items() if k not in ('val_dataloader', 'test_dataloader')}
    )
    with pytest.raises(UserError, match='no val_dataloader with val_evaluator; add them, or give'):
        evaluate(without, None)
    cfg.val_evaluator = dict(type='DumpResults', out_file_path=str(tmp_path / 'results.pkl'))
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    oracle = Oracle([dataset.get_data_info(i) for i in range(IMAGES)])
    with pytest.raises(UserError, match='val_evaluator gives nothing, expected box or mask AP'):
        evaluate(cfg, oracle)
