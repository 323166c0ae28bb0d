"""Folders of images: accepted files, ids, and messages about skipped files."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmvanilla.datasets.shapes import draw_scene
from mmvanilla.deploy.predict import find_inputs, read_image
from mmvanilla.deploy.predict.inputs import image_extensions
from mmvanilla.deploy.predict.results import as_picture


def scene(seed, size=64):
    return draw_scene(np.random.default_rng(seed), size).image


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    return folder


@pytest.fixture
def detector(files):
    """Write config and checkpoint of a detector with boxes in each image."""
    _, config, checkpoint = files('retinanet')
    cfg = Config.fromfile(config)
    cfg.model.test_cfg.score_thr = 0.0
    cfg.dump(config)
    return config, checkpoint


@pytest.mark.parametrize(
    'suffix',
    [
        'avif',
        'bmp',
        'gif',
        'jfif',
        'jp2',
        'jpe',
        'jpeg',
        'JPG',
        'pbm',
        'pgm',
        'png',
        'pnm',
        'ppm',
        'TIF',
        'tiff',
        'webp',
    ],
)
def test_files_that_the_decoders_read_are_found(suffix, photos):
    if f'.{suffix}'.lower() not in image_extensions():
        pytest.skip(f'this OpenCV does not read {suffix}')
    path = photos / f'image.{suffix}'
    Image.fromarray(scene(0)).convert('1' if suffix == 'pbm' else 'RGB').save(path)
    assert [item.path for item in find_inputs([str(photos)])] == [str(path)]
    assert read_image(str(path)).shape == (64, 64, 3)


@pytest.mark.parametrize('suffix', ['dib', 'hdr', 'pfm', 'sr'])
def test_files_that_only_opencv_reads_are_found(suffix, photos):
    image = scene(0) if suffix in ('dib', 'sr') else scene(0).astype(np.float32) / 255
    assert cv2.imwrite(str(photos / f'image.{suffix}'), image)
    (item,) = find_inputs([str(photos)])
    assert read_image(item.path).shape == (64, 64, 3)


def test_files_left_out_are_named(detector, photos, tool_output, tmp_path):
    cv2.imwrite(str(photos / 'good.png'), scene(0))
    for name in ('phone.heic', 'notes.txt', 'bands.npy', '.hidden'):
        (photos / name).write_text('content')
    (photos / 'folder.png').mkdir()
    out = tool_output('predict.py', *detector, photos, '--out', tmp_path / 'out')
    (line,) = [line for line in out.splitlines() if 'left out' in line]
    assert all(name in line for name in ('phone.heic', 'notes.txt', 'bands.npy'))
    assert 'hidden' not in line
    assert 'good.png' not in line
    assert '1 of 1 inputs predicted' in out


def test_thousands_of_files_left_out_are_counted(photos, tool_output, detector, tmp_path):
    cv2.imwrite(str(photos / 'good.png'), scene(0))
    for number in range(1000):
        (photos / f'{number}.xml').touch()
    out = tool_output('predict.py', *detector, photos, '--out', tmp_path / 'out')
    (line,) = [line for line in out.splitlines() if 'left out' in line]
    assert '995 more' in line
    assert len(line) < 500


@pytest.mark.parametrize(
    ('names', 'ids'),
    [
        (['1.png', '0001.png'], {'1', '0001'}),
        (['1.png', '1.bmp'], {1, '1_2'}),
        (['000000000139.png', '2.png', 'street.png'], {139, 2, 'street'}),
        (['1.png', '01.png', '001.png', '2.png'], {'1', '01', '001', 2}),
        (['a.png', 'A.png'], {'a', 'A'}),
        (['³.png', '٣.png', '3.png'], {'³', '٣', '3'}),
    ],
)
def test_every_image_has_an_id_of_its_own(names, ids, detector, photos, tool_output, tmp_path):
    for seed, name in enumerate(names):
        cv2.imwrite(str(photos / name), scene(seed))
    out = tmp_path / 'out'
    tool_output('predict.py', *detector, photos, '--out', out)
    found = [entry['image_id'] for entry in json.loads((out / 'predictions.json').read_text())]
    assert set(found) == ids
    # Each image has its own boxes.
    assert all(found.count(each) == found.count(found[0]) for each in ids)


def test_an_image_called_like_a_frame_of_a_video(detector, photos, tool_output, tmp_path):
    writer = cv2.VideoWriter(
        str(photos / 'walk.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 64)
    )
    for seed in range(2):
        writer.write(scene(seed))
    writer.release()
    cv2.imwrite(str(photos / 'walk_000001.png'), scene(5))
    out = tmp_path / 'out'
    tool_output('predict.py', *detector, photos, '--out', out)
    found = [entry['image_id'] for entry in json.loads((out / 'predictions.json').read_text())]
    assert set(found) == {'walk_000000', 'walk_000001', 'walk_000001_2'}
    assert len({found.count(name) for name in set(found)}) == 1


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (np.full((2, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 1), 7, np.float32), [7, 7, 7]),
        (np.full((2, 3, 2), 7, np.uint8), [7, 7, 7]),
        (np.tile(np.uint8([1, 2, 3, 4]), (2, 3, 1)), [1, 2, 3]),
        (np.tile(np.float32([1, 2.6, 255, 9, 9]), (2, 3, 1)), [1, 3, 255]),
        (np.tile(np.uint16([0, 30000, 60000]), (2, 3, 1)), [0, 128, 255]),
        (np.tile(np.float32([0, 0.5, 1]), (2, 3, 1)), [0, 128, 255]),
        (np.tile(np.float64([-1, 0, 1]), (2, 3, 1)), [0, 128, 255]),
        (np.tile(np.float32([np.nan, 0, 200]), (2, 3, 1)), [0, 0, 200]),
        (np.zeros((2, 3, 3), np.float32), [0, 0, 0]),
    ],
)
def test_any_image_has_a_picture(image, expected):
    picture = as_picture(image)
    assert picture.dtype == np.uint8
    assert picture.shape == (2, 3, 3)
    assert (picture == np.uint8(expected)).all()
