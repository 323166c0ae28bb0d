"""Configs in mmengine's pure Python style, where types are classes, in every tool."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings
from yapf.yapflib.yapf_api import FormatCode

import mmvanilla
from mmvanilla import make_shapes
from mmvanilla.benchmark.model import ModelSpec, describe_form
from mmvanilla.type_name import library, scope, type_name

CONFIGS = 'tests/data/pure_python'
LIBRARIES = dict(mask_rcnn='mmdet', retinanet='mmdet', upernet='mmseg', classifier='mmpretrain')
ROOTS = dict(
    mask_rcnn='coco', retinanet='coco', upernet='ADEChallengeData2016', classifier='textures'
)


@pytest.fixture(autouse=True)
def formatted_configs(monkeypatch):
    """Format configs as usual, other than in most tests."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', FormatCode, raising=False)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Write shapes in both layouts, and pictures of two classes."""
    root = make_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=2, val=2, size=96)
    random = np.random.default_rng(0)
    for part in ('train', 'val'):
        for name in ('dots', 'stripes'):
            folder = root / 'textures' / part / name
            folder.mkdir(parents=True)
            for i in range(2):
                image = random.integers(0, 255, (80, 90, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f'{i}.png'), image)
    return root


@pytest.fixture
def model(trained, tmp_path):
    """Write a checkpoint; return the model, the config and both paths."""

    def write(name):
        path = f'{CONFIGS}/{name}.py'
        cfg = Config.fromfile(path)
        import_modules_from_strings(f'{LIBRARIES[name]}.models')
        init_default_scope(LIBRARIES[name])
        torch.manual_seed(0)
        built = trained(MODELS.build(cfg.model)).eval()
        state = {key: value.clone() for key, value in built.state_dict().items()}
        torch.save(dict(state_dict=state, meta={}), tmp_path / 'trained.pth')
        return built, cfg, path, tmp_path / 'trained.pth'

    return write


@pytest.mark.parametrize('name', LIBRARIES)
def test_the_library_follows_from_the_class_of_the_model(name):
    cfg = Config.fromfile(f'{CONFIGS}/{name}.py')
    assert cfg.default_scope is None
    assert library(cfg) == scope(cfg) == LIBRARIES[name]
    assert describe_form(ModelSpec('net', cfg, 'train')) == 'training form'
    dumped = Config.fromstring(cfg.pretty_text, '.py')  # where classes are paths
    assert library(dumped) == LIBRARIES[name]
    assert type_name(dumped.model.backbone) == 'VanillaNet'


@pytest.mark.parametrize('name', LIBRARIES)
def test_a_config_is_checked_and_trained(name, data, tool_output, tmp_path):
    config, root = f'{CONFIGS}/{name}.py', ('--data-root', data / ROOTS[name])
    tool_output('check_data.py', config, *root)
    tool_output('train.py', config, *root, '--work-dir', tmp_path / 'work')
    assert (tmp_path / 'work/epoch_1.pth').is_file()
    assert Config.fromfile(tmp_path / f'work/{name}.py').train_cfg.max_epochs == 1


@pytest.mark.parametrize('name', LIBRARIES)
def test_a_checkpoint_is_fused_and_tested(name, model, data, tool_output, run_test, tmp_path):
    _, _, config, checkpoint = model(name)
    root = ('--data-root', data / ROOTS[name])
    tool_output('deploy.py', config, checkpoint, *root, '--out', tmp_path / 'fused.pth')
    out = run_test(config, tmp_path / 'fused.pth', root[1])
    assert 'deploy=True' in out


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        *((name, []) for name in LIBRARIES),
        *((name, ['--tta']) for name in ('mask_rcnn', 'retinanet', 'upernet')),
        ('mask_rcnn', ['--no-fuse']),
    ],
)
def test_a_checkpoint_is_tested(name, options, model, data, run_test, tmp_path):
    _, _, config, checkpoint = model(name)
    file = tmp_path / 'out.pkl'
    out = run_test(config, checkpoint, data / ROOTS[name], '--out', file, *options)
    assert ('The deploy form is tested' in out) == ('--no-fuse' not in options)
    assert len(pickle.loads(file.read_bytes())) == (4 if name == 'classifier' else 2)
    if options == ['--tta']:  # the tested config is dumped
        kinds = dict(mmdet='DetTTAModel', mmseg='SegTTAModel')
        assert (
            type_name(Config.fromfile(tmp_path / f'work/{name}.py').model) == kinds[LIBRARIES[name]]
        )


@pytest.mark.parametrize('name', ['mask_rcnn', 'retinanet'])
def test_a_detector_predicts_what_mmdet_infers(name, model, data, tool_output, tmp_path):
    from mmdet.apis import inference_detector

    built, built.cfg, config, checkpoint = model(name)
    photo = next((data / 'coco/val2017').iterdir())
    tool_output('predict.py', config, checkpoint, photo, '--out', tmp_path / 'out')
    expected = inference_detector(built, str(photo)).pred_instances
    found = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert len(found) == len(expected) == 20
    np.testing.assert_allclose(
        [each['score'] for each in found], expected.scores.numpy(), atol=1e-4
    )
    assert (tmp_path / f'out/pictures/{photo.stem}.png').exists()


def test_a_segmentor_predicts_what_mmseg_infers(model, data, tool_output, tmp_path):
    from mmseg.apis import inference_model

    built, cfg, config, checkpoint = model('upernet')
    photo = next((data / 'ADEChallengeData2016/images/validation').iterdir())
    tool_output('predict.py', config, checkpoint, photo, '--out', tmp_path / 'out')
    cfg.test_pipeline = [step for step in cfg.test_pipeline if type_name(step) != 'LoadAnnotations']
    built.cfg = cfg
    expected = inference_model(built, str(photo)).pred_sem_seg.data[0].numpy()
    found = cv2.imread(str(tmp_path / f'out/labels/{photo.stem}.png'), cv2.IMREAD_UNCHANGED)
    assert np.mean(found == expected) > 0.999


def test_a_classifier_predicts_the_likeliest_class(model, data, tool_output, tmp_path):
    _, _, config, checkpoint = model('classifier')
    tool_output(
        *('predict.py', config, checkpoint, data / 'textures/val/dots', '--out', tmp_path / 'out'),
        *('--cfg-options', f'test_dataloader.dataset.data_root={data / "textures"}'),
    )
    found = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert [entry['image'] for entry in found] == ['0', '1']
    assert {top['class'] for entry in found for top in entry['top']} == {'dots', 'stripes'}


@pytest.mark.parametrize('name', LIBRARIES)
def test_the_speed_of_every_form_is_measured(name, tool_output, tmp_path, forked):
    config = f'{CONFIGS}/{name}.py'
    pickle.loads(pickle.dumps(ModelSpec('net', Config.fromfile(config))))
    forms = ('--no-fuse', '--fuse', '--deploy', '--accelerate')
    tool_output(
        *('fps.py', config, *forms, '--part', 'backbone', '--shape', 64, 64),
        *('--repeat', 1, '--warmup', 1, '--json', tmp_path / 'speed.json'),
    )
    rows = json.loads((tmp_path / 'speed.json').read_text())['rows']
    assert all(len(row['times_ms']) == 1 for row in rows)
    assert len({row['form'] for row in rows}) == len(rows) == 4


def test_a_classifier_in_deploy_form_is_built_in_it(model, data, run_test):
    from mmvanilla import fuse

    built, _, config, checkpoint = model('classifier')
    torch.save(dict(state_dict=fuse(built).state_dict(), meta={}), checkpoint)
    run_test(config, checkpoint, data / 'textures')


# Names with a dot, such as vanillanet13_1.5x, cannot be imported.
OWN = [path.stem for path in sorted(Path('configs').glob('*.py'))]


@pytest.mark.parametrize('name', filter(str.isidentifier, OWN))
def test_a_config_of_the_package_is_a_base(name, tmp_path):
    own = tmp_path / 'own.py'
    own.write_text(
        'from mmengine.config import read_base\nfrom torch.optim import SGD\n\n'
        f'with read_base():\n    from mmvanilla.configs.{name} import *\n\n'
        'model.update(dict(backbone=dict(act_num=2)))\noptim_wrapper.optimizer = dict(type=SGD)\n'
    )
    found = Config.fromfile(own)
    installed = Path(mmvanilla.__file__).parent / '.mim/configs'  # a config may name its folder
    expected = Config.fromfile(installed / f'{name}.py')
    expected.model.backbone.act_num = 2
    expected.optim_wrapper.optimizer = dict(type='torch.optim.SGD')
    assert found.to_dict() == expected.to_dict()
