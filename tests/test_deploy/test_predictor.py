"""Exported models on images of another size than the model's, against mmdet and mmseg."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from mmvanilla.datasets.shapes import draw_scene
from mmvanilla.deploy.export import OpenedModel, compare, exportable
from mmvanilla.deploy.predict import Results, exported, make_predictor
from mmvanilla.deploy.predict.coco import category_ids
from mmvanilla.errors import UserError


@pytest.fixture
def image():
    return np.ascontiguousarray(draw_scene(np.random.default_rng(3), 140).image[:90])


@pytest.fixture
def opened(monkeypatch):
    """Let a model stand for the file that it would be exported to."""

    def stand_in(model, **options):
        module = exportable(model, **options)

        def run(array):
            with torch.no_grad():
                values = module(torch.from_numpy(array))
            return {n: v.numpy() for n, v in zip(module.output_names, values, strict=True)}

        monkeypatch.setattr(exported, 'open_model', lambda *_: OpenedModel(run, (), {}))

    return stand_in


@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_detections_are_those_of_mmdet(kind, build, small_config, opened, image):
    from mmdet.apis import inference_detector

    model = build(kind)
    model.cfg = small_config(kind)
    opened(model)
    found = make_predictor(model.cfg, 'model.onnx')(image).pred_instances
    expected = inference_detector(model, image).pred_instances
    result = compare(arrays(found), arrays(expected))
    assert result.agrees, result.text
    assert len(expected) > 20


SLIDE = {'test_cfg': dict(mode='slide', crop_size=(64, 96), stride=(40, 50))}


@pytest.mark.parametrize(('label_map', 'mode'), [(False, {}), (True, {}), (False, SLIDE)])
def test_labels_are_those_of_mmseg(label_map, mode, build, small_config, opened, image):
    from mmseg.apis import inference_model

    model = build('upernet', **mode)
    model.cfg = small_config('upernet', **mode)
    opened(model, label_map=label_map)
    found = make_predictor(model.cfg, 'model.xml')(image).pred_sem_seg.data
    model.cfg.test_pipeline = [
        step for step in model.cfg.test_dataloader.dataset.pipeline if 'Annot' not in step.type
    ]
    expected = inference_model(model, image).pred_sem_seg.data
    assert found.shape == expected.shape == (1, 90, 140)
    # Labels are scaled to the nearest pixel, logits linearly.
    assert (found == expected).double().mean() > (0.9 if label_map else 0.999)


def test_an_image_in_any_form_gives_the_same_boxes(files, image, tmp_path):
    _, config, checkpoint = files('retinanet')
    predict = make_predictor(Config.fromfile(config), str(checkpoint))
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), image)
    expected = predict(image).pred_instances
    assert len(expected) > 20
    with Image.open(path) as opened:
        for same in (str(path), path, opened, image.astype(np.float64)):
            found = predict(same).pred_instances
            assert torch.equal(found.bboxes, expected.bboxes)
            assert torch.equal(found.scores, expected.scores)


def test_labels_of_crops_cannot_be_averaged(build, small_config, opened, image):
    opened(build('upernet'), label_map=True)  # an older file, exported for whole images
    predict = make_predictor(small_config('upernet', **SLIDE), 'model.onnx')
    with pytest.raises(UserError, match="mode is 'slide'.* returns label_map; .*--label-map"):
        predict(image)


def test_a_file_without_metadata_is_taken_with_a_warning(build, small_config, opened, monkeypatch):
    logged = []
    monkeypatch.setattr(
        'mmvanilla.checks.findings.print_log', lambda text, **_: logged.append(text)
    )
    opened(build('retinanet'))
    make_predictor(small_config('retinanet'), 'model.onnx')
    assert len(logged) == 1
    assert "exported file 'model.onnx' is older" in logged[0]


def test_a_model_of_other_classes_is_refused(small_config, tmp_path):
    results = Results(str(tmp_path), small_config('retinanet'))
    instances = InstanceData(
        bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.tensor([79])
    )
    sample = DetDataSample(pred_instances=instances)
    with pytest.raises(UserError, match='class 79, but the config has'):
        results.record('image', sample)


def test_classes_that_only_folders_name(tmp_path):
    dataset = dict(type='CustomDataset', data_root=str(tmp_path / 'val'))
    visualizer = dict(type='UniversalVisualizer', name='folders')
    cfg = Config(dict(default_scope='mmpretrain', visualizer=visualizer))
    cfg.test_dataloader = dict(dataset=dataset)
    (tmp_path / 'val').mkdir()
    with pytest.raises(UserError, match=r'folder per class.*metainfo\.classes, or data_root'):
        Results(str(tmp_path / 'out'), cfg)
    for name in ('stripes', 'dots'):
        (tmp_path / 'val' / name).mkdir()
    assert Results(str(tmp_path / 'out'), cfg).classes == ['dots', 'stripes']
    dataset.update(ann_file='list.txt')
    cfg.test_dataloader = dict(dataset=dataset)
    with pytest.raises(UserError, match='folder per class'):
        Results(str(tmp_path / 'out'), cfg)


def test_coco_has_gaps_in_its_numbers():
    from mmdet.datasets import CocoDataset

    classes = CocoDataset.METAINFO['classes']
    ids = dict(zip(classes, category_ids(classes), strict=True))
    assert (ids['person'], ids['stop sign'], ids['toothbrush']) == (1, 13, 90)
    assert category_ids(('person', 'helmet')) == [1, 2]


def arrays(instances):
    names = dict(boxes='bboxes', scores='scores', labels='labels', masks='masks')
    return {k: instances[v].numpy() for k, v in names.items() if v in instances}
