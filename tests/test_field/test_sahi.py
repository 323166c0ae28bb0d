"""SAHI predicts images whole and in slices with a detector that was trained here."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmvanilla import fuse
from mmvanilla.deploy.predict import ExportedModel, make_predictor
from mmvanilla.deploy.predict import tested_classes as classes_of  # not a test

sahi = pytest.importorskip('sahi')

from sahi.predict import get_prediction, get_sliced_prediction  # noqa: E402

ROOT = Path(__file__).parents[2]
COCO = ROOT.parent / 'shared/data/coco'


def open_model(config, checkpoint, confidence=0.01, **options):
    return sahi.AutoDetectionModel.from_pretrained(
        model_type='mmdet',
        config_path=str(config),
        model_path=str(checkpoint),
        confidence_threshold=confidence,
        device='cpu',
        **options,
    )


def rows(predictions):
    """Return boxes, scores and classes (N, 6) of SAHI's predictions."""
    return np.array([[*p.bbox.to_xyxy(), p.score.value, p.category.id] for p in predictions])


def ours(config, checkpoint, image, confidence=0.01):
    """Predict an image as tools/predict.py does, without fusing."""
    predict = make_predictor(Config.fromfile(config), str(checkpoint), fuse_model=False)
    found = predict(image).pred_instances
    found = found[found.scores >= confidence]
    table = torch.cat([found.bboxes, found.scores[:, None], found.labels[:, None]], dim=1)
    return table.numpy(), found


def test_whole_images(detector):
    image = detector.images[0]
    found = get_prediction(image, open_model(*detector[:2])).object_prediction_list
    expected, _ = ours(*detector[:2], cv2.imread(image))
    assert len(expected) > 10
    np.testing.assert_allclose(rows(found), expected, rtol=1e-6)
    classes = Config.fromfile(detector.config).metainfo.classes
    assert {p.category.name for p in found} <= set(classes)


def test_slices(detector):
    image = detector.images[0]
    sides = dict(slice_height=40, slice_width=40, overlap_height_ratio=0.4, overlap_width_ratio=0.4)
    post = dict(postprocess_type='NMS', perform_standard_pred=False, verbose=0)
    found = get_sliced_prediction(image, open_model(*detector[:2]), **sides, **post)
    every = []
    for y in (0, 24):
        for x in (0, 24):
            part, _ = ours(*detector[:2], cv2.imread(image)[y : y + 40, x : x + 40])
            every.append(part + np.array([x, y, x, y, 0, 0]))
    table, every = rows(found.object_prediction_list), np.concatenate(every)
    assert 10 < len(table) < len(every)  # SAHI suppresses duplicates of slices
    distances = np.abs(table[:, None] - every).max(-1).min(1)
    assert distances.max() < 1e-4
    assert np.isclose(table[:, 4].max(), every[:, 4].max())


@pytest.mark.slow
@pytest.mark.usefixtures('exporting')
def test_an_exported_file(detector, export):
    cfg, image = Config.fromfile(detector.config), detector.images[0]
    model = open_model(*detector[:2])
    expected = rows(get_prediction(image, model).object_prediction_list)
    model.model.model = ExportedModel(export(detector), cfg.model, classes_of(cfg))
    found = rows(get_prediction(image, model).object_prediction_list)
    assert len(expected) > 10
    np.testing.assert_allclose(found[:, 4], expected[:, 4], rtol=1e-4)
    # Equal boxes may change their order.
    assert np.abs(found[:, None] - expected).max(-1).min(1).max() < 1e-2


def test_image_size_of_sahi(detector):
    """SAHI replaces the scale of the pipeline's Resize."""
    found = get_prediction(detector.images[0], open_model(*detector[:2], image_size=96))
    cfg = Config.fromfile(detector.config)
    cfg.test_dataloader.dataset.pipeline[1].scale = (96, 96)
    predict = make_predictor(cfg, detector.checkpoint, fuse_model=False)
    scores = predict(cv2.imread(detector.images[0])).pred_instances.scores
    expected = scores[scores >= 0.01].numpy()
    np.testing.assert_allclose(rows(found.object_prediction_list)[:, 4], expected, rtol=1e-6)


@pytest.mark.parametrize('deploy', [False, True])
def test_masks(deploy, build, small_config, shapes, tmp_path):
    cfg = small_config('mask_rcnn', **{'test_cfg.rcnn.score_thr': 0.001})
    cfg.model.backbone.deploy = deploy
    for scale in (cfg.test_dataloader.dataset.pipeline[1], cfg.test_pipeline[1]):
        scale.scale = (64, 64)
    model = build('mask_rcnn')
    if deploy:
        model = fuse(model)
    meta = dict(dataset_meta=dict(cfg.metainfo))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'model.pth')
    cfg.dump(tmp_path / 'config.py')
    image = sorted(map(str, (shapes / 'coco/val2017').iterdir()))[0]
    files = tmp_path / 'config.py', tmp_path / 'model.pth'
    found = get_prediction(image, open_model(*files)).object_prediction_list
    expected, instances = ours(*files, cv2.imread(image))
    assert len(found) > 10
    for prediction in found:
        same = np.isclose(expected[:, 4], prediction.score.value, rtol=1e-6)
        masks = instances.masks.numpy()[same & (expected[:, 5] == prediction.category.id)]
        # SAHI keeps outlines; a filled outline includes its border.
        assert min((prediction.mask.bool_mask != mask).mean() for mask in masks) < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not COCO.is_dir(), reason='the real COCO images are not here')
def test_a_real_photo_that_was_learnt_by_heart(tmp_path):
    """As docs/sahi.png was made."""
    options = ['--coco', COCO, '--out', tmp_path / 'sahi.png']
    done = subprocess.run(
        [sys.executable, 'benchmarks/sliced_prediction.py', *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (counts,) = re.findall(r'of (\d+) objects (\d+) are found whole, (\d+) in slices', done.stdout)
    count, whole, sliced = map(int, counts)
    print(f'{whole} of {count} whole, {sliced} in slices')
    assert sliced >= count / 2
    assert cv2.imread(str(tmp_path / 'sahi.png')) is not None
