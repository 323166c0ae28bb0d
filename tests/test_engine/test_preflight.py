"""The checks before a training, without our tools."""

import importlib.util
import json
import logging
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmvanilla
from mmvanilla import UserError, make_shapes
from mmvanilla.checks import Items
from mmvanilla.engine import build_runner
from mmvanilla.errors import sentence

HOOK = [dict(type='PreflightHook')]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, train=6, val=2, size=64) / 'coco'


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'coco')


@pytest.fixture
def config(data, tmp_path):
    """Return the config of a tiny detector that trains for an epoch, with the hook."""
    cfg = Config.fromfile('tests/data/tiny_shapes.py')
    cfg.merge_from_dict(
        dict(
            work_dir=str(tmp_path / 'work'),
            experiment_name=str(tmp_path).replace('/', '_'),
            train_cfg=dict(_delete_=True, by_epoch=True, max_epochs=1, val_interval=1),
            custom_hooks=HOOK,
            log_level='ERROR',
        )
    )
    for key in ('train', 'val', 'test'):
        cfg[f'{key}_dataloader'].num_workers = 0
        cfg[f'{key}_dataloader'].dataset.data_root = f'{data}/'
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(
        data / 'annotations/instances_val2017.json'
    )
    return cfg


def change_annotations(data, change):
    file = data / 'annotations/instances_train2017.json'
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_whole_data_train_and_are_validated_with_a_plain_config(config):
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 3
    for loop in (runner.train_loop, runner.val_loop):
        assert isinstance(loop.dataloader.dataset, Items)
    (dumped,) = Path(config.work_dir).glob('*.py')
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(str(dumped), device='cpu', show_progress=False)
    image = str(next(Path(config.val_dataloader.dataset.data_root).glob('val2017/*')))
    assert inferencer(image)['predictions'][0].keys() >= {'labels', 'scores', 'bboxes'}


@pytest.mark.parametrize('evaluate', ['val', 'test'])
def test_a_validation_without_a_training_names_missing_files(evaluate, config, data):
    config.model.backbone.frozen_stages = 1
    getattr(Runner.from_cfg(config), evaluate)()
    next((data / 'val2017').iterdir()).unlink()
    config.experiment_name += '2'
    with pytest.raises(UserError, match='val2017.* does not exist'):
        getattr(Runner.from_cfg(config), evaluate)()


def remove_images(cfg, data):
    for file in (data / 'train2017').iterdir():
        file.unlink()


def other_names(cfg, data):
    change_annotations(data, lambda d: [c.update(name=c['name'].upper()) for c in d['categories']])


def fractions(cfg, data):
    def change(document):
        for note in document['annotations']:
            note['bbox'] = [value / 64 for value in note['bbox']]

    change_annotations(data, change)


def flat_image(cfg, data):
    """A side of 20 of 6000 pixels becomes 0 within 64 x 64."""
    import cv2
    import numpy as np

    for image in sorted((data / 'train2017').iterdir()):
        cv2.imwrite(str(image), np.zeros((6000, 20, 3), np.uint8))

    def change(document):
        for image in document['images']:
            image.update(width=20, height=6000)
        for note in document['annotations']:
            note['bbox'] = [1, 1, 15, 40]
            note['segmentation'] = [[1, 1, 16, 1, 16, 41, 1, 41]]

    change_annotations(data, change)
    cfg.train_dataloader.dataset.filter_cfg = None


def few_classes(cfg, data):
    cfg.model.bbox_head.num_classes = 2


def sharded(cfg, data):
    cfg.strategy = dict(type='FSDPStrategy')


def other_truth(cfg, data):
    file = data / 'annotations/instances_val2017.json'
    document = json.loads(file.read_text())
    for image in document['images']:
        image['id'] += 100
    for note in document['annotations']:
        note['image_id'] += 100
    cfg.val_evaluator.ann_file = str(data / 'other.json')
    (data / 'other.json').write_text(json.dumps(document))


MISTAKES = [
    (remove_images, 'image .*train2017.* does not exist'),
    (other_names, "class 'circle' .*'CIRCLE'"),
    (fractions, '0 of .* objects loaded'),
    (flat_image, r'image .*train2017.*Resize'),
    (few_classes, 'model.bbox_head.num_classes is 2.* labels of 6'),
    (sharded, r'the config shards the model \(FSDP\)'),
    (other_truth, "images of the data set .* not in the evaluator's annotation file"),
]


def preflight_first(cfg):
    mmvanilla.preflight(cfg)
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize('build', [Runner.from_cfg, build_runner])
@pytest.mark.parametrize(('mistake', 'sentence'), MISTAKES, ids=[m.__name__ for m, _ in MISTAKES])
def test_mistakes(mistake, sentence, build, config, data):
    mistake(config, data)
    if mistake in (other_names, flat_image) and build == Runner.from_cfg:
        build = preflight_first  # mmengine cannot build an empty data set
    with pytest.raises(UserError, match=sentence) as error:
        build(config).train()
    assert '\n' not in str(error.value)


def test_a_missing_annotation_file_is_named(config, data):
    (data / 'annotations/instances_train2017.json').unlink()
    for begin in (build_runner, mmvanilla.preflight):
        with pytest.raises(UserError, match='train_dataloader.*instances_train2017.json'):
            begin(config)


def test_a_neck_with_other_channels_is_named_in_the_first_step(config, data):
    config.model.neck.in_channels = [16, 16, 24]
    config.train_cfg = dict(type='ResumableEpochLoop', max_epochs=1)
    sentence = r'model.neck.lateral_convs.2.*channels \(16, 16, 16\)'
    for build in (Runner.from_cfg, build_runner):
        config.experiment_name += 'x'
        with pytest.raises(UserError, match=sentence) as error:
            build(config).train()
        assert '\n' not in str(error.value)


def test_anchors_of_other_strides_are_warned_of(config, caplog):
    config.model.bbox_head.anchor_generator.strides = [4, 8, 16]
    config.log_level = 'INFO'
    runner = build_runner(config)
    messages = []
    runner.logger.warning = messages.append
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.train()
    found = [text for text in messages if 'model.bbox_head has strides' in text]
    assert len(found) == 1
    assert '[8.0, 16.0, 32.0]' in found[0]


def test_more_classes_than_the_data_train_with_a_warning(config):
    config.model.bbox_head.num_classes = 9
    build_runner(config).train()


def test_judgements_become_warnings(config, data):
    few_classes(config, data)
    other_truth(config, data)
    config.val_evaluator.ann_file = config.test_evaluator.ann_file
    build_runner(config, warn_only=True)


def test_synchronised_norms_train_in_one_process_without_a_gpu(config):
    config.model.neck.norm_cfg = dict(type='SyncBN')
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 3


def test_a_default_hook_that_is_none_stays_off(config):
    config.default_hooks.deploy = None
    for task in ('train', 'test'):
        config.experiment_name += task
        runner = build_runner(config, task)
        assert not any(type(hook).__name__ == 'SwitchToDeployHook' for hook in runner.hooks)


def test_the_batch_size_of_accumulated_steps_scales_the_rate(config):
    """Two batches a step are a batch twice as large."""
    config.auto_scale_lr = dict(enable=True, base_batch_size=2)
    rates = []
    for batch_size, count in ((4, 1), (2, 2)):
        config.train_dataloader.batch_size = batch_size
        config.optim_wrapper.accumulative_counts = count
        config.experiment_name += 'x'
        config.param_scheduler = None
        runner = build_runner(config)
        runner.train()
        rates.append(max(runner.optim_wrapper.get_lr()['lr']))
    assert rates == [pytest.approx(2 * config.optim_wrapper.optimizer.lr)] * 2


def test_a_change_of_the_pipeline_in_training_still_names_files(config, data):
    """As mmdet's YOLOX and RTMDet do before their last epochs."""
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    pipeline = config.train_dataloader.dataset.pipeline
    config.custom_hooks = [
        dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=pipeline),
        *HOOK,
    ]

    class Remove(Hook):
        def after_train_epoch(self, runner):
            for file in (data / 'train2017').iterdir():
                file.unlink()

    runner = Runner.from_cfg(config)
    runner.register_hook(Remove())
    with pytest.raises(UserError, match='image .*train2017.* does not exist'):
        runner.train()
    assert runner.epoch == 1


class Images(Hook):
    """Record the images of each iteration and a random number."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen += [Path(sample.img_path).name for sample in data_batch['data_samples']]
        self.seen.append(torch.rand(()).item())


def by_iteration(config):
    config.train_cfg = dict(by_epoch=False, max_iters=4, val_interval=100)
    config.train_dataloader.update(num_workers=1, sampler=dict(type='InfiniteSampler'))
    config.default_hooks.checkpoint = None
    config.param_scheduler = None


def test_workers_that_run_already_begin_anew(config, data):
    by_iteration(config)
    seen = []
    for hooks in ([], HOOK):
        config.custom_hooks = hooks
        config.experiment_name += 'x'
        runner = Runner.from_cfg(config)
        runner.register_hook(images := Images())
        runner.train()
        seen.append(images.seen)
    assert seen[0] == seen[1]  # no image is skipped, and the model draws the same numbers
    assert len(seen[0]) == 4 * 3
    remove_images(config, data)
    config.experiment_name += 'y'
    with pytest.raises(UserError, match='image .* does not exist'):
        Runner.from_cfg(config).train()


def test_in_the_own_tool_of_mmdet(config, data, tmp_path, monkeypatch):
    """Two lines in a config suffice."""
    config.custom_imports = dict(imports=['mmvanilla'])
    config.dump(tmp_path / 'config.py')
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    tool = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim/tools/train.py'
    if not tool.exists():
        pytest.skip('this mmdet brings no tools')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'config.py')])
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(tool), run_name='__main__')
    assert (Path(config.work_dir) / 'iter_3.pth').exists()
    options = ['--resume', '--cfg-options', 'train_cfg.max_epochs=2', 'experiment_name=again']
    monkeypatch.setattr(sys, 'argv', [*sys.argv, *options])
    fractions(config, data)
    with pytest.raises(UserError, match='0 of .* objects loaded'):
        runpy.run_path(str(tool), run_name='__main__')


def test_an_annotation_file_is_parsed_once(config, monkeypatch):
    parsed, load = [], json.load
    monkeypatch.setattr(json, 'load', lambda *args: parsed.append(args[0].name) or load(*args))
    monkeypatch.setattr(Path, 'read_bytes', lambda file: pytest.fail(f'{file} is read again'))
    build_runner(config)
    files = [config[f'{split}_dataloader'].dataset.ann_file for split in ('train', 'val')]
    assert [sum(name.endswith(file) for name in parsed) for file in files] == [1, 2]
    assert json.load.__name__ == '<lambda>'


def test_an_assertion_without_a_text_is_shown_with_its_line(config):
    config.model.neck.in_channels = [1, 2, 3, 4]
    with pytest.raises(AssertionError) as error:
        build_runner(config)
    assert "'assert num_outs >= self.num_ins" in sentence(error.value)


def test_a_wrong_argument_of_a_loop_is_not_blamed_on_the_data(config):
    config.train_cfg.max_epoch = 1
    with pytest.raises(UserError, match='max_epoch') as error:
        build_runner(config)
    assert 'data_root' not in str(error.value)
    assert 'instances_train' not in str(error.value)
