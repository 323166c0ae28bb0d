"""Configs and checkpoints of a training in mmdet, mmseg, mmpretrain and torch."""

import json
import os
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmvanilla import UserError
from mmvanilla.deploy.predict import ExportedModel, make_predictor
from mmvanilla.deploy.predict import tested_classes as classes_of  # not a test

ROOT = Path(__file__).parents[2]
KINDS = ['detector', 'segmentor', 'classifier']


@pytest.fixture(params=KINDS)
def trained(request):
    return request.getfixturevalue(request.param)


def ours(trained, image, fused=False):
    """Predict an image as tools/predict.py does, by default without fusing."""
    predict = make_predictor(Config.fromfile(trained.config), trained.checkpoint, fuse_model=fused)
    return predict(cv2.imread(image))


def values(sample):
    """Return a prediction as arrays."""
    if 'pred_sem_seg' in sample:
        return [sample.pred_sem_seg.data[0].numpy()]
    if 'pred_score' in sample:
        return [sample.pred_score.numpy()]
    found = sample.pred_instances
    assert len(found) == 100
    return [found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy()]


def assert_same(found, expected, rtol=0.0):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=rtol, atol=rtol)


def boxes(prediction):
    return [prediction[name] for name in ('bboxes', 'scores', 'labels')]


@pytest.fixture
def fused(trained, tmp_path, monkeypatch):
    """Write the checkpoint in deploy form, and the config for it."""
    out = tmp_path / 'fused.pth'
    arguments = ['deploy.py', trained.config, trained.checkpoint, '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', arguments)
    runpy.run_path(str(ROOT / 'tools/deploy.py'), run_name='__main__')
    cfg = Config.fromfile(trained.config)
    cfg.model.backbone.deploy = True
    if 'head' in cfg.model:
        cfg.model.head.deploy = True
    cfg.dump(tmp_path / 'fused.py')
    return trained._replace(config=str(tmp_path / 'fused.py'), checkpoint=str(out))


def run_library(trained, exported=None):
    """Predict the first image with the library's inferencer, or an exported file in it."""
    files, image = (trained.config, trained.checkpoint), trained.images[0]
    cfg = trained.config if isinstance(trained.config, Config) else Config.fromfile(files[0])
    init_default_scope(cfg.default_scope)  # mmpretrain does not
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer as Inferencer
    elif cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        from mmpretrain import ImageClassificationInferencer as Inferencer

    inferencer = Inferencer(*files, device='cpu')
    if exported:
        inferencer.model = ExportedModel(exported, cfg.model, classes_of(cfg))
    found = inferencer(image)
    if cfg.default_scope == 'mmdet':
        return boxes(found['predictions'][0])
    return [found['predictions'] if cfg.default_scope == 'mmseg' else found[0]['pred_scores']]


def test_checkpoints_hold_nothing_but_tensors_numbers_and_texts(trained):
    """PyTorch's default, ``weights_only=True``, loads these."""
    if hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):  # 2.6
        assert torch.serialization.get_unsafe_globals_in_checkpoint(trained.checkpoint) == []
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    assert checkpoint['meta']['dataset_meta']['classes']
    assert checkpoint['optimizer']


def test_a_checkpoint_that_mmengine_publishes(detector):
    (file,) = Path(detector.checkpoint).parent.glob(f'{Path(detector.checkpoint).stem}-*.pth')
    published = detector._replace(checkpoint=str(file))
    assert torch.load(file).keys() == {'meta', 'state_dict'}
    assert_same(run_library(published), values(ours(detector, detector.images[0])))


def test_training_forms_in_the_inferencers_of_the_libraries(trained):
    assert_same(run_library(trained), values(ours(trained, trained.images[0])))


def test_fused_checkpoints_in_the_inferencers_of_the_libraries(trained, fused):
    expected = values(ours(trained, trained.images[0]))
    assert_same(run_library(fused), values(ours(fused, trained.images[0])))
    if len(expected) == 1:  # equal boxes may change their order
        assert_same(run_library(fused), expected, rtol=1e-4)


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize(
    'kind', [*(pytest.param(k, marks=pytest.mark.slow) for k in KINDS[:2]), KINDS[2]]
)
def test_exported_files_in_the_inferencers_of_the_libraries(kind, request, export):
    trained = request.getfixturevalue(kind)
    found, expected = (
        run_library(trained, export(trained)),
        values(ours(trained, trained.images[0])),
    )
    if len(expected) == 1:
        assert_same(found, expected, rtol=1e-4)
        return
    # Equal boxes may change their order.
    assert_same(found[1:2], expected[1:2], rtol=1e-4)
    distances = np.abs(np.array(found[0])[:, None] - expected[0]).max(-1).min(1)
    assert distances.max() < 1e-2


@pytest.mark.usefixtures('exporting')
def test_an_exported_file_of_other_classes_is_refused(classifier, export):
    cfg = Config.fromfile(classifier.config)
    with pytest.raises(UserError, match="class 1 is 'plain' .*'stripes'"):
        ExportedModel(export(classifier), cfg.model, ['noise', 'stripes', 'plain'])


def test_resuming_goes_on_with_what_was_logged(classifier, tmp_path):
    cfg = Config.fromfile(classifier.config)
    cfg.work_dir, cfg.experiment_name, cfg.resume = str(tmp_path), 'resumed', True
    cfg.load_from, cfg.visualizer.name = classifier.checkpoint, 'resumed'
    cfg.train_cfg.max_epochs = 3
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    saved = torch.load(classifier.checkpoint)['message_hub']['log_scalars']['train/loss']
    assert len(losses) == 3 * 3
    np.testing.assert_array_equal(losses[:6], saved[0])


def test_det_inferencer_on_arrays_folders_and_batches(detector):
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(
        detector.config, detector.checkpoint, device='cpu', show_progress=False
    )
    expected = [values(ours(detector, image)) for image in detector.images]
    arrays = [cv2.imread(image) for image in detector.images]
    for inputs in (detector.images, arrays):
        predictions = inferencer(inputs, batch_size=2)['predictions']
        for prediction, one in zip(predictions, expected, strict=True):
            assert_same(boxes(prediction)[:2], one[:2], rtol=1e-4)
    folder = os.path.dirname(detector.images[0])
    predictions = inferencer(folder)['predictions']
    for name, prediction in zip(os.listdir(folder), predictions, strict=True):
        index = detector.images.index(os.path.join(folder, name))
        assert_same(boxes(prediction), expected[index])
    assert inferencer.model.dataset_meta['classes'][0] == 'circle'
    assert inferencer.visualizer.dataset_meta['palette'][0] == (230, 60, 60)


def test_inferencers_that_get_the_checkpoint_alone(detector, segmentor, tmp_path):
    """The checkpoint holds its config."""
    from mmdet.apis import DetInferencer
    from mmseg.apis import MMSegInferencer

    inferencer = DetInferencer(weights=detector.checkpoint, device='cpu', show_progress=False)
    prediction = inferencer(detector.images[0], out_dir=str(tmp_path))['predictions'][0]
    assert_same(boxes(prediction), values(ours(detector, detector.images[0])))
    assert list(tmp_path.glob('vis/*')) + list(tmp_path.glob('preds/*')) != []
    found = MMSegInferencer(None, segmentor.checkpoint, device='cpu')(segmentor.images)
    for labels, image in zip(found['predictions'], segmentor.images, strict=True):
        assert_same([labels], values(ours(segmentor, image)))


def test_init_detector(detector):
    from mmdet.apis import inference_detector, init_detector
    from mmdet.utils import get_test_pipeline_cfg
    from mmengine.dataset import Compose

    model = init_detector(detector.config, detector.checkpoint, device='cpu')
    assert model.dataset_meta['classes'][0] == 'circle'
    assert model.dataset_meta['palette'][0] == (230, 60, 60)
    pipeline = Compose(get_test_pipeline_cfg(model.cfg))
    found = inference_detector(model, detector.images)
    found += inference_detector(model, detector.images, test_pipeline=pipeline)
    for sample, image in zip(found, detector.images * 2, strict=True):
        assert_same(values(sample), values(ours(detector, image)))
    model = init_detector(detector.config, device='cpu', palette='random')
    assert len(inference_detector(model, detector.images[0]).pred_instances)


def test_init_model_of_mmseg(segmentor, tmp_path):
    from mmseg.apis import inference_model, init_model, show_result_pyplot

    model = init_model(segmentor.config, segmentor.checkpoint, device='cpu')
    found = inference_model(model, segmentor.images)
    for sample, image in zip(found, segmentor.images, strict=True):
        assert_same(values(sample), values(ours(segmentor, image)))
    out = tmp_path / 'out.png'
    show_result_pyplot(model, segmentor.images[0], found[0], show=False, out_file=str(out))
    assert cv2.imread(str(out)).shape[:2] == (64, 64)


def test_mmpretrain_on_arrays_and_batches(classifier, tmp_path):
    from mmpretrain import ImageClassificationInferencer

    init_default_scope('mmpretrain')
    inferencer = ImageClassificationInferencer(
        classifier.config, classifier.checkpoint, device='cpu'
    )
    arrays = [cv2.imread(image) for image in classifier.images]
    for inputs in (classifier.images, arrays):
        found = inferencer(inputs, batch_size=2, show_dir=str(tmp_path))
        for result, image in zip(found, classifier.images, strict=True):
            assert_same([result['pred_scores']], values(ours(classifier, image)), rtol=1e-6)
    assert {result['pred_class'] for result in found} <= {'noise', 'plain', 'stripes'}


def test_averaged_weights_are_those_that_are_loaded(detector):
    """EMAHook saves averaged weights in ``state_dict``."""
    from mmdet.apis import init_detector

    model = init_detector(detector.config, detector.checkpoint, device='cpu')
    checkpoint = torch.load(detector.checkpoint, weights_only=True)
    name = 'backbone.stem1.0.weight'
    raw = checkpoint['ema_state_dict'][f'module.{name}']
    assert not torch.equal(model.state_dict()[name], raw)
    assert torch.equal(model.state_dict()[name], checkpoint['state_dict'][name])


@pytest.mark.parametrize('suffix', ['py', 'yaml'])
def test_configs_that_are_written_and_read_again(suffix, trained, tmp_path):
    Config.fromfile(trained.config).dump(tmp_path / f'config.{suffix}')
    copied = trained._replace(config=Config.fromfile(tmp_path / f'config.{suffix}'))
    assert_same(run_library(copied), values(ours(trained, trained.images[0])))


# Only the config imports this package.
FRESH = """
import json, sys
from mmengine.config import Config

files = json.loads(sys.argv[1])
results = {}
config, checkpoint, image = files['classifier']
from mmpretrain import ImageClassificationInferencer
model = ImageClassificationInferencer(config, checkpoint, device='cpu')
results['classifier'] = [model(image)[0]['pred_scores'].tolist()]

config, checkpoint, image = files['detector']
config = Config.fromfile(config)
from mmdet.apis import DetInferencer
prediction = DetInferencer(config, checkpoint, device='cpu')(image)['predictions'][0]
results['detector'] = [prediction[name] for name in ('bboxes', 'scores', 'labels')]

config, checkpoint, image = files['segmentor']
from mmseg.apis import MMSegInferencer
model = MMSegInferencer(config, checkpoint, device='cpu')
results['segmentor'] = [model(image)['predictions'].tolist()]
print(json.dumps(results))
"""


def test_programs_that_import_nothing_of_ours(
    detector, segmentor, classifier, fresh_python, tmp_path
):
    all_trained = dict(detector=detector, segmentor=segmentor, classifier=classifier)
    files = {name: [*one[:2], one.images[0]] for name, one in all_trained.items()}
    done = fresh_python('-c', FRESH, json.dumps(files), folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, one in all_trained.items():
        assert_same(found[name], values(ours(one, one.images[0])), rtol=1e-6)


def test_a_plain_config_of_mmdet_with_our_backbone(detector, tmp_path):
    """Only backbone and neck of a config of mmdet are changed."""
    from mmdet.apis import DetInferencer

    text = """
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
custom_imports = dict(imports=['mmvanilla'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='VanillaNet',
        arch=dict(dims=[8, 16, 24, 32, 32], strides=[1, 2, 2, 2]),
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=[16, 24, 32, 32]),
    test_cfg=dict(score_thr=0.0),
)
test_pipeline = _base_.test_pipeline
test_pipeline[1] = dict(type='Resize', scale=(128, 128), keep_ratio=True)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""
    (tmp_path / 'plain.py').write_text(text)
    inferencer = DetInferencer(str(tmp_path / 'plain.py'), device='cpu', show_progress=False)
    torch.save(dict(state_dict=inferencer.model.state_dict()), tmp_path / 'plain.pth')
    again = DetInferencer(
        str(tmp_path / 'plain.py'), str(tmp_path / 'plain.pth'), device='cpu', show_progress=False
    )
    one, other = (boxes(i(detector.images[0])['predictions'][0]) for i in (inferencer, again))
    assert len(one[0]) > 0
    assert_same(one, other)
