"""The checks before a training, in trainings that no tool of ours starts."""

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
from mmvanilla.data_checks import LoadImageFromFileChecked
from mmvanilla.engine import PreflightHook, check_loading

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
        first = loop.dataloader.dataset.pipeline.transforms[0]
        assert isinstance(first, LoadImageFromFileChecked)
    (dumped,) = Path(config.work_dir).glob('*.py')
    assert 'Checked' not in dumped.read_text()
    assert Config.fromfile(dumped).test_dataloader.dataset.pipeline[0].type == 'LoadImageFromFile'
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(str(dumped), device='cpu', show_progress=False)
    image = str(next(Path(config.val_dataloader.dataset.data_root).glob('val2017/*')))
    assert inferencer(image)['predictions'][0].keys() >= {'labels', 'scores', 'bboxes'}


@pytest.mark.parametrize('evaluate', ['val', 'test'])
def test_without_a_training_only_model_and_loading_are_checked(evaluate, config, data):
    change_annotations(data, lambda document: document['annotations'].clear())
    config.model.backbone.frozen_stages = 1
    getattr(Runner.from_cfg(config), evaluate)()
    next((data / 'val2017').iterdir()).unlink()
    config.experiment_name += '2'
    with pytest.raises(UserError, match='image .*val2017.* does not exist; correct'):
        getattr(Runner.from_cfg(config), evaluate)()


def remove_image(cfg, data):
    (data / 'train2017/000000000003.jpg').unlink()


def unknown_category(cfg, data):
    change_annotations(data, lambda document: document['annotations'][0].update(category_id=99))


def no_folder(cfg, data):
    shutil.rmtree(data / 'train2017')


def channels(cfg, data):
    cfg.model.neck.in_channels = [16, 16, 24]


def synchronised(cfg, data):
    cfg.model.neck.norm_cfg = dict(type='SyncBN')


def sharded(cfg, data):
    cfg.strategy = dict(type='FSDPStrategy')


def no_resumable(cfg, data):
    cfg.resume, cfg.load_from = True, str(data / 'weights.pth')
    torch.save(dict(state_dict=dict(a=torch.zeros(1)), meta={}), cfg.load_from)


MISTAKES = [
    (remove_image, "image '.*000000000003.jpg' does not exist; correct or remove it"),
    (unknown_category, 'the data of train have an error .annotation of an undefined category'),
    (no_folder, "train_dataloader looks for '.*train2017/', which does not exist"),
    (channels, r'model.neck.in_channels is \[16, 16, 24\], but the backbone gives \[16, 16, 16\]'),
    (sharded, r'the config shards the model \(FSDP\)'),
    (no_resumable, 'the checkpoint cannot be resumed from: its message_hub is missing'),
]


@pytest.mark.parametrize(('mistake', 'sentence'), MISTAKES, ids=[m.__name__ for m, _ in MISTAKES])
def test_mistakes(mistake, sentence, config, data):
    mistake(config, data)
    with pytest.raises(UserError, match=sentence) as error:
        Runner.from_cfg(config).train()
    assert '\n' not in str(error.value)


def test_synchronised_norms_need_a_gpu(config, data, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    test_mistakes(synchronised, 'model.neck.* asks for SyncBN, .* set type=BN', config, data)


def test_synchronised_norms_are_tested_without_a_gpu(config, data):
    synchronised(config, data)
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        config.pop(key, None)
    Runner.from_cfg(config).test()  # in eval mode they are as any other


def test_the_config_is_checked_where_it_was_not(config, data, monkeypatch):
    seen = []
    module = sys.modules[PreflightHook.__module__]
    monkeypatch.setattr(module, 'check_annotations', lambda cfg, parts: seen.append(parts))
    for added in (None, PreflightHook(config=False)):
        config.experiment_name += 'x'
        runner = Runner.from_cfg(config)
        if added:
            runner.register_hook(added)
        runner.train()
    assert seen == [('train', 'val')]  # the one that was added knows that it was called
    mmvanilla.preflight(config, ['train'])
    assert seen[1:] == [('train',)]


class Images(Hook):
    """Keeps the names of the images that are trained on, and a number that is drawn then."""

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
    assert seen[0] == seen[1]  # no image is left out, and the model draws what it drew
    assert len(seen[0]) == 4 * 3
    remove_image(config, data)
    config.experiment_name += 'y'
    with pytest.raises(UserError, match="image '.*000000000003.jpg' does not exist"):
        Runner.from_cfg(config).train()


def test_loading_that_is_checked_from_the_beginning(config):
    by_iteration(config)
    runner = Runner.from_cfg(config)
    check_loading(runner)
    workers = runner.train_loop.dataloader_iterator
    hook = [hook for hook in runner.hooks if isinstance(hook, PreflightHook)]
    runner.val_loop  # noqa: B018
    hook[0].before_run(runner)
    assert runner.train_loop.dataloader_iterator is workers  # nothing begins anew


def test_in_the_own_tool_of_mmdet(config, data, tmp_path, monkeypatch):
    """With two lines in a config that knows nothing of us otherwise."""
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
    unknown_category(config, data)
    with pytest.raises(UserError, match='the data of train have an error'):
        runpy.run_path(str(tool), run_name='__main__')
    remove_image(config, data)
    monkeypatch.setattr(sys, 'argv', [*sys.argv, 'model.neck.in_channels=[16,16,24]'])
    with pytest.raises(UserError, match='but the backbone gives'):
        runpy.run_path(str(tool), run_name='__main__')
