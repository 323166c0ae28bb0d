"""Metrics of a part of the validation data, against mmengine's runner on that part alone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from rich.console import Console

from mmvanilla.cli import set_data_root
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.evaluate import NothingMeasured, evaluate
from mmvanilla.deploy.export import OpenedModel
from mmvanilla.deploy.int8 import Accuracy, AccuracyDrop, check_accuracy, check_measured
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
    with pytest.raises(UserError, match='no val_dataloader.* add them, or give'):
        evaluate(without, None)
    cfg.val_evaluator = dict(type='DumpResults', out_file_path=str(tmp_path / 'results.pkl'))
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    oracle = Oracle([dataset.get_data_info(i) for i in range(IMAGES)])
    with pytest.raises(UserError, match='val_evaluator gives nothing, expected box or mask AP'):
        evaluate(cfg, oracle)


def test_an_evaluator_of_other_images_is_refused(small_config, shapes, tmp_path):
    cfg = config_of(small_config, 'retinanet', shapes / 'coco')
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    oracle = Oracle([dataset.get_data_info(i) for i in range(IMAGES)])
    content = json.loads(Path(cfg.val_evaluator.ann_file).read_text())
    first, second, *_ = content['categories']
    first['name'], second['name'] = second['name'], first['name']
    (tmp_path / 'other.json').write_text(json.dumps(content))
    cfg.val_evaluator.ann_file = str(tmp_path / 'other.json')
    with pytest.raises(UserError, match=f'category .*{first["name"]}.*warn_only'):
        evaluate(cfg, oracle)
    assert evaluate(cfg, oracle, warn_only=True)


@pytest.mark.parametrize('right', [True, False])
def test_multi_label_metrics_are_from_0_to_1(right, tmp_path):
    """Those of mmpretrain are percentages, which once looked like a drop of 10 for 0.1."""
    labels = [[0], [1], [0, 1], []]
    for i in range(len(labels)):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.zeros((8, 8, 3), np.uint8))
    entries = [dict(img_path=f'{i}.png', gt_label=found) for i, found in enumerate(labels)]
    content = dict(metainfo=dict(classes=['a', 'b']), data_list=entries)
    (tmp_path / 'labels.json').write_text(json.dumps(content))
    dataset = dict(type='MultiLabelDataset', ann_file='labels.json', data_root=str(tmp_path))
    dataset['pipeline'] = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    loader = dict(dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            val_dataloader=dict(loader, batch_size=1, num_workers=0),
            val_evaluator=dict(type='AveragePrecision'),
        )
    )

    class Tagger(torch.nn.Module):
        def test_step(self, batch):
            for sample in batch['data_samples']:
                there = torch.zeros(2)
                there[sample.gt_label] = 1.0
                sample.set_field(2, 'num_classes', field_type='metainfo')
                sample.set_pred_score(there if right else 1 - there)
            return batch['data_samples']

    (value,) = evaluate(cfg, Tagger()).values()
    if right:
        assert value == 1
    else:
        assert 0 < value < 1


def test_images_without_objects_have_no_accuracy(small_config, shapes, tmp_path):
    """An AP of -1 is no figure that 8 bits could be compared with."""
    cfg = config_of(small_config, 'retinanet', shapes / 'coco')
    content = json.loads(Path(cfg.val_evaluator.ann_file).read_text())
    (tmp_path / 'empty.json').write_text(json.dumps(dict(content, annotations=[])))
    cfg.val_dataloader.dataset.ann_file = cfg.val_evaluator.ann_file = str(tmp_path / 'empty.json')

    class Guesser(torch.nn.Module):
        def test_step(self, batch):
            for sample in batch['data_samples']:
                found = dict(bboxes=torch.tensor([[1.0, 1, 9, 9]]), scores=torch.ones(1))
                sample.pred_instances = InstanceData(labels=torch.zeros(1).long(), **found)
            return batch['data_samples']

    with pytest.raises(UserError, match='bbox_mAP is -1'):
        check_measured(evaluate(cfg, Guesser()))
    for value in (float('nan'), 0.0):
        with pytest.raises(UserError):
            check_measured(dict(mIoU=value))
    check_measured(dict(bbox_mAP=0.3, segm_mAP=0.0))


def test_a_model_that_finds_nothing_in_8_bits_loses_everything(monkeypatch):
    """The metric of COCO gives no AP then."""

    def nothing(*_):
        raise NothingMeasured('val_evaluator gives nothing')

    monkeypatch.setattr('mmvanilla.deploy.int8.evaluate', nothing)
    accuracy = Accuracy(Config(dict(model={})), None)
    arguments = dict(bbox_mAP=0.3), 'model.xml', Console(quiet=True), OpenedModel(dict, (), {})
    with pytest.raises(AccuracyDrop):
        check_accuracy(accuracy, *arguments)
