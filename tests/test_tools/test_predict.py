"""What tools/predict.py writes, against what mmdet and mmseg infer themselves."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from mmvanilla.datasets.shapes import draw_scene
from mmvanilla.deploy.export import exportable, write_model
from mmvanilla.deploy.predict import Input, Results


def scene(seed, size=96):
    return draw_scene(np.random.default_rng(seed), size).image


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for seed, name in enumerate(['000000000139', 'street']):
        cv2.imwrite(str(folder / f'{name}.png'), scene(seed))
    return folder


def test_a_detector(files, photos, run_tool, tmp_path):
    from mmdet.apis import inference_detector

    model, config, checkpoint = files('mask_rcnn')
    out = tmp_path / 'out'
    code, printed, _ = run_tool('predict.py', config, checkpoint, photos, '--out', out)
    assert code == 0
    assert '2 of 2 inputs predicted' in printed
    assert f'written to {out}\n{out}/contact_sheet.png\n' in printed
    found = json.loads((out / 'predictions.json').read_text())
    model.cfg = load(config)
    for image_id, name in ((139, '000000000139'), ('street', 'street')):
        expected = inference_detector(model, str(photos / f'{name}.png')).pred_instances
        boxes = [result for result in found if result['image_id'] == image_id]
        assert len(boxes) == len(expected) > 20
        xyxy = np.array([result['bbox'] for result in boxes])
        xyxy[:, 2:] += xyxy[:, :2]
        ids = np.array([result['category_id'] for result in boxes])
        # Boxes of nearly the same score may come in another order.
        far = np.abs(xyxy[:, None] - expected.bboxes.numpy()).max(2)
        nearest = (far + 1000 * (ids[:, None] != expected.labels.numpy() + 1)).argmin(1)
        assert sorted(nearest.tolist()) == list(range(len(boxes)))
        expected = expected[nearest]
        np.testing.assert_allclose(xyxy, expected.bboxes.numpy(), atol=0.01)
        np.testing.assert_allclose(
            [result['score'] for result in boxes], expected.scores.numpy(), atol=1e-4
        )
        assert ids.tolist() == (expected.labels + 1).tolist()
        masks = np.stack([coco_mask.decode(result['segmentation']) for result in boxes])
        assert np.mean(masks.astype(bool) == expected.masks.numpy()) > 0.999
    pictures = [cv2.imread(str(out / f'pictures/{p.stem}.png')) for p in sorted(photos.iterdir())]
    assert [picture.shape for picture in pictures] == 2 * [(96, 96, 3)]
    assert np.array_equal(cv2.imread(str(out / 'contact_sheet.png')), np.hstack(pictures))


@pytest.mark.parametrize('exported', [False, True])
def test_a_segmentor(exported, files, photos, run_tool, tmp_path, request):
    if exported:
        request.getfixturevalue('exporting')
    from mmseg.apis import inference_model

    model, config, file = files('upernet')
    if exported:
        file = tmp_path / 'model.pt2'
        write_model(exportable(model), torch.rand(1, 3, 128, 160) * 255, str(file))
    out = tmp_path / 'out'
    assert run_tool('predict.py', config, file, photos / '*.png', '--out', out, '--trust')[0] == 0
    model.cfg = load(config)
    for photo in photos.iterdir():
        expected = inference_model(model, str(photo)).pred_sem_seg.data[0].numpy()
        found = cv2.imread(str(out / 'labels' / photo.name), cv2.IMREAD_UNCHANGED)
        assert np.mean(found == expected) > 0.999
        assert len(np.unique(found)) > 1
        picture = cv2.imread(str(out / 'pictures' / photo.name))
        assert picture.shape == (96, 96, 3)
        assert not np.array_equal(picture, cv2.imread(str(photo)))
    assert not (out / 'predictions.json').exists()


def test_pictures_by_the_library(files, photos, run_tool, tmp_path):
    from mmdet.apis import inference_detector
    from mmdet.registry import DATASETS
    from mmdet.visualization import DetLocalVisualizer

    model, config, checkpoint = files('mask_rcnn')
    photo, drawn = photos / 'street.png', tmp_path / 'drawn.png'
    command = [config, checkpoint, photo, '--score-thr', '0.2', '--out']
    for draw in ('library', 'supervision'):
        code, *_ = run_tool('predict.py', *command, tmp_path / draw, '--draw', draw)
        assert code == 0
    model.cfg = load(config)
    sample = inference_detector(model, str(photo))
    visualizer = DetLocalVisualizer('expected')
    dataset = dict(model.cfg.test_dataloader.dataset, lazy_init=True)
    visualizer.dataset_meta = DATASETS.build(dataset).metainfo
    options = dict(draw_gt=False, pred_score_thr=0.2, out_file=str(drawn))
    visualizer.add_datasample('', cv2.imread(str(photo))[..., ::-1], sample, **options)
    files = [drawn] + [tmp_path / f'{d}/pictures/street.png' for d in ('library', 'supervision')]
    expected, picture, other = (cv2.imread(str(file)).astype(int) for file in files)
    # Boxes of nearly the same score may come in another order.
    assert 4 * np.abs(picture - expected).mean() < np.abs(picture - other).mean()


def test_the_pictures_on_one(small_config, tmp_path):
    """Every one stands in its cell, shrunk to 320 pixels; those after the 36th are left out."""
    results = Results(str(tmp_path), small_config('retinanet'))
    inputs = [Input(f'{number}.jpg', str(number)) for number in range(40)]
    assert results.overview(inputs) is None
    colours = np.random.default_rng(0).integers(60, 255, (40, 3))
    for number, colour in enumerate(colours):
        size = (400, 800, 3) if number == 1 else (20, 40, 3)
        picture = np.broadcast_to(colour.astype(np.uint8), size)
        results.write_png(f'pictures/{number}', picture)
        if number == 0:
            assert results.overview(inputs) == str(tmp_path / 'pictures/0.png')
    sheet = Image.open(results.overview(inputs))
    assert sheet.size == (6 * 320, 6 * 160)
    for number, colour in enumerate(colours[:36].tolist()):
        row, column = divmod(number, 6)
        corner, width = (column * 320, row * 160), 320 if number == 1 else 40
        cell = np.asarray(sheet.crop((*corner, corner[0] + 320, corner[1] + 160)))
        assert (cell[: width // 2, :width] == colour[::-1]).all()
        assert not cell[width // 2 :].any()
        assert not cell[:, width:].any()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ['contact_sheet.png']


def test_bad_images_among_good_ones(files, photos, run_tool, tmp_path):
    _, config, checkpoint = files('upernet')
    (photos / 'empty.jpg').touch()
    (photos / 'text.png').write_text('no image')
    cv2.imwrite(str(photos / 'cut.jpg'), scene(0))
    whole = (photos / 'cut.jpg').read_bytes()
    (photos / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    out = tmp_path / 'out'
    code, printed, error = run_tool('predict.py', config, checkpoint, photos, '--out', out)
    assert code == 1
    assert '2 of 5 inputs predicted' in printed
    for name in ('empty.jpg', 'text.png', 'cut.jpg'):
        assert f"{name}' cannot be read" in error
    assert sorted(p.name for p in (out / 'labels').iterdir()) == ['000000000139.png', 'street.png']


@pytest.mark.parametrize('kind', ['retinanet', 'upernet'])
def test_a_video(kind, files, run_tool, tmp_path):
    _, config, checkpoint = files(kind)
    write_video(tmp_path / 'walk.avi', 4)
    out = tmp_path / 'out'
    code, *_ = run_tool('predict.py', config, checkpoint, tmp_path / 'walk.avi', '--out', out)
    assert code == 0
    assert count_frames(out / 'walk.mp4') == 4
    if kind == 'upernet':
        names = [f'walk_{number:06d}.png' for number in range(4)]
        assert sorted(path.name for path in (out / 'labels').iterdir()) == names
    else:
        ids = {result['image_id'] for result in json.loads((out / 'predictions.json').read_text())}
        assert ids == {f'walk_{number:06d}' for number in range(4)}


def test_a_video_that_ends_early(files, run_tool, tmp_path):
    _, config, checkpoint = files('upernet')
    write_video(tmp_path / 'walk.avi', 10)
    whole = (tmp_path / 'walk.avi').read_bytes()
    (tmp_path / 'walk.avi').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'none.mp4').write_text('no video')
    out = tmp_path / 'out'
    inputs = [tmp_path / 'none.mp4', tmp_path / 'walk.avi']
    code, _, error = run_tool('predict.py', config, checkpoint, *inputs, '--out', out)
    assert code == 1
    kept = count_frames(out / 'walk.mp4')
    assert 0 < kept < 9
    assert f"walk.avi' ends early, after {kept} of 10 frames" in error
    assert "none.mp4' cannot be read" in error
    assert not (out / 'none.mp4').exists()


def test_a_half_trained_net_runs_as_it_is(files, photos, run_tool, tmp_path):
    from mmseg.apis import inference_model

    model, config, checkpoint = files('upernet', act_learn=0.5)
    out = tmp_path / 'out'
    code, printed, _ = run_tool(
        'predict.py', config, checkpoint, photos / 'street.png', '--out', out
    )
    assert code == 0
    assert 'not fused: ' in printed
    model.cfg = load(config)
    expected = inference_model(model, str(photos / 'street.png')).pred_sem_seg.data[0].numpy()
    found = cv2.imread(str(out / 'labels/street.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, expected)


def test_what_cannot_begin(files, photos, run_tool, tmp_path):
    _, config, checkpoint = files('upernet')
    out = tmp_path / 'out'
    code, _, error = run_tool('predict.py', config, 'none.pth', tmp_path / 'none', '--out', out)
    assert code == 2
    assert "none' does not exist" in error
    assert not out.exists()
    code, _, error = run_tool('predict.py', config, 'none.pth', photos, '--out', out)
    assert (code, 'none.pth' in error) == (2, True)
    code, _, error = run_tool(
        'predict.py', config, checkpoint, photos, '--out', photos / 'street.png'
    )
    assert (code, 'cannot be written' in error) == (2, True)
    code, _, error = run_tool('predict.py', config, checkpoint, photos, '--device', 'abacus')
    assert (code, "--device 'abacus' cannot be used" in error) == (2, True)


@pytest.mark.usefixtures('exporting')
def test_exported_files_that_are_refused(files, photos, run_tool, tmp_path):
    model, config, _ = files('upernet')
    out = tmp_path / 'out'
    features = tmp_path / 'features.pt2'
    write_model(exportable(model, features=True), torch.rand(1, 3, 128, 160), str(features))
    code, _, error = run_tool('predict.py', config, features, photos, '--out', out)
    assert (code, 'is a program of PyTorch' in error) == (2, True)
    code, _, error = run_tool('predict.py', config, features, photos, '--out', out, '--trust')
    assert (code, 'export the whole model' in error) == (2, True)
    command = ('predict.py', config, features, photos, '--batch-size', '4')
    code, _, error = run_tool(*command)
    assert (code, '--batch-size is 4, but exported files' in error) == (2, True)


def load(config):
    from mmengine.config import Config

    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline = [
        step for step in cfg.test_dataloader.dataset.pipeline if step.type != 'LoadAnnotations'
    ]
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    return cfg


def write_video(path, number):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (96, 96))
    assert writer.isOpened()
    for seed in range(number):
        writer.write(scene(seed))
    writer.release()


def count_frames(path):
    reader = cv2.VideoCapture(str(path))
    number = 0
    while reader.read()[0]:
        number += 1
    return number
