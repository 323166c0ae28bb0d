"""Wrapped data sets, several data sets or loaders, and configs without test data."""

import json
import pickle

import pytest
from mmengine.config import Config

from mmvanilla.benchmark.model import ModelSpec, ModelUnderTest
from mmvanilla.benchmark.settings import Settings
from mmvanilla.datasets import make_shapes
from mmvanilla.deploy.predict import Results, TestPipeline, pipeline
from mmvanilla.errors import UserError


@pytest.fixture
def data(tmp_path):
    return make_shapes(tmp_path / 'shapes', train=1, val=2, size=64)


def concat(dataset):
    return dict(type='ConcatDataset', datasets=[dataset, dict(dataset)])


def nested(dataset):
    repeated = dict(type='RepeatDataset', times=1, dataset=dataset)
    return dict(type='ConcatDataset', datasets=(repeated, dataset))


def mixed(dataset):
    *steps, pack = dataset.pipeline
    inner = dict(dataset, pipeline=steps)
    return dict(type='MultiImageMixDataset', dataset=inner, pipeline=[pack])


WRAPPERS = dict(
    ConcatDataset=concat,
    RepeatDataset=lambda dataset: dict(type='RepeatDataset', times=2, dataset=dataset),
    ClassBalancedDataset=lambda dataset: dict(
        type='ClassBalancedDataset', oversample_thr=1e-3, dataset=dataset
    ),
    MultiImageMixDataset=mixed,
    nested=nested,
)


def wrap(cfg, name):
    """Wrap the test data set of a config."""
    cfg.test_dataloader.dataset = WRAPPERS[name](cfg.test_dataloader.dataset)
    return cfg


def plain_steps(cfg):
    return [step.type for step in cfg.test_dataloader.dataset.pipeline]


@pytest.mark.parametrize('name', WRAPPERS)
def test_pipeline_and_classes_are_found_within(name, small_config, tmp_path):
    cfg = small_config('retinanet')
    expected = plain_steps(cfg)
    wrap(cfg, name)
    paths = pipeline.tested_datasets(cfg)
    assert len(paths) == (2 if name in ('ConcatDataset', 'nested') else 1)
    assert all([step.type for step in pipeline.steps_of(path)] == expected for path in paths)
    assert Results(str(tmp_path), cfg).classes[0] == 'circle'
    assert len(TestPipeline(cfg).steps) == len(expected) - 1


def test_several_loaders(small_config):
    cfg = small_config('retinanet')
    for kind in (list, tuple):
        cfg.test_dataloader = kind([cfg.val_dataloader] * 2)
        assert len(pipeline.tested_datasets(cfg)) == 2


@pytest.mark.parametrize('name', ['nested', 'MultiImageMixDataset', None, 'none'])
def test_images_are_predicted(name, files, data, run_tool, tmp_path):
    """A config may have a validation loader only."""
    _, config, checkpoint = files('retinanet')
    cfg = Config.fromfile(config)
    if name in WRAPPERS:
        wrap(cfg, name)
    else:
        cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
        cfg.val_dataloader = None if name else cfg.val_dataloader
    cfg.dump(config)
    out = tmp_path / 'out'
    code, _, error = run_tool('predict.py', config, checkpoint, data / 'coco/val2017', '--out', out)
    if name == 'none':
        assert code == 2
        assert 'test_dataloader' in error.splitlines()[-1]
        assert 'Traceback' not in error
        return
    assert code == 0, error
    found = json.loads((out / 'predictions.json').read_text())
    assert len({entry['image_id'] for entry in found}) == 2


@pytest.mark.parametrize('name', ['nested', 'MultiImageMixDataset', 'list', None, 'none'])
def test_a_checkpoint_is_fused_and_compared(name, files, data, tool_output, tmp_path):
    """Compared on test images, else validation images, else embedded shapes."""
    _, config, checkpoint = files('retinanet')
    cfg = Config.fromfile(config)
    for loader in (cfg.test_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(data / 'coco')
    if name in WRAPPERS:
        wrap(cfg, name)
    elif name == 'list':
        cfg.test_dataloader = [cfg.test_dataloader, cfg.val_dataloader]
    else:
        cfg.test_dataloader = None
        cfg.val_dataloader = None if name else cfg.val_dataloader
    cfg.dump(config)
    fused = tmp_path / 'fused.pth'
    out = tool_output('deploy.py', config, checkpoint, '--out', fused)
    assert ('embedded shapes' in out) == (name == 'none')
    assert fused.is_file()


@pytest.mark.parametrize('wrapper', [*WRAPPERS, None])
def test_speed_on_images(wrapper, small_config, data):
    cfg = small_config('retinanet')
    if wrapper:
        wrap(cfg, wrapper)
    else:
        cfg.test_dataloader = None
    settings = Settings(shape=(64, 64), images=str(data / 'coco/val2017'))
    assert len(ModelUnderTest(ModelSpec('net', cfg), settings).sizes()) == 2


@pytest.mark.parametrize('tta', [False, True])
@pytest.mark.parametrize('name', ['ConcatDataset', 'RepeatDataset', 'MultiImageMixDataset'])
def test_a_detector_is_tested(name, tta, files, data, run_test, tmp_path):
    _, config, checkpoint = files('retinanet')
    cfg = wrap(Config.fromfile(config), name)
    cfg.test_evaluator = [
        dict(cfg.test_evaluator, metric=['bbox', 'segm'] if tta else 'bbox', prefix=prefix)
        for prefix in ('first', 'second')
    ]
    cfg.dump(config)
    options = ('--out', tmp_path / 'out.pkl', *(['--tta'] if tta else []))
    out = run_test(config, checkpoint, data / 'coco', *options)
    assert 'first/bbox_mAP' in out
    assert 'second/bbox_mAP' in out
    number = len(pickle.loads((tmp_path / 'out.pkl').read_bytes()))
    assert number == (2 if name == 'MultiImageMixDataset' else 4)


def test_a_segmentor_on_two_data_sets_is_augmented_on_both(files, data, run_test, tmp_path):
    _, config, checkpoint = files('upernet')
    cfg = wrap(Config.fromfile(config), 'ConcatDataset')
    cfg.dump(config)
    options = ('--tta', '--out', tmp_path / 'out.pkl')
    run_test(config, checkpoint, data / 'ADEChallengeData2016', *options)
    assert len(pickle.loads((tmp_path / 'out.pkl').read_bytes())) == 4


def test_a_metric_within_an_evaluator(files, data, run_test):
    """Test-time augmentation does not merge masks."""
    _, config, checkpoint = files('mask_rcnn')
    cfg = Config.fromfile(config)
    file = str(data / 'coco/annotations/instances_val2017.json')
    metric = dict(cfg.test_evaluator, ann_file=file, metric=['bbox', 'segm'])
    cfg.test_evaluator = dict(type='Evaluator', metrics=[metric])
    cfg.dump(config)
    out = run_test(config, checkpoint, data / 'coco', '--tta')
    assert 'coco/bbox_mAP' in out


@pytest.mark.parametrize(
    'missing',
    [
        ['test_cfg'],
        ['test_dataloader'],
        ['test_evaluator'],
        ['test_dataloader', 'test_cfg', 'test_evaluator'],
    ],
)
@pytest.mark.parametrize('how', ['none', 'absent'])
def test_missing_settings_for_a_test_are_named(missing, how, files, tool_error):
    _, config, checkpoint = files('upernet')
    cfg = Config.fromfile(config)
    for name in missing:
        if how == 'none':
            cfg[name] = None
        else:
            cfg.pop(name)
    cfg.dump(config)
    line = tool_error('test.py', config, checkpoint)
    assert all(name in line for name in missing)


def test_a_config_without_data_still_has_a_speed(small_config):
    cfg = small_config('retinanet')
    cfg.test_dataloader = cfg.val_dataloader = None
    made = ModelUnderTest(ModelSpec('net', cfg), Settings(shape=(64, 64)))
    assert made.sizes() == [(3, 64, 64)]
    with pytest.raises(UserError, match='test_dataloader'):
        pipeline.tested_datasets(cfg)
