"""Objects cut out of a set in COCO's layout."""

import json

import cv2
import numpy as np
import pytest

from mmvanilla import UserError, make_shapes
from mmvanilla.datasets import CLASSES
from projects.paper_tables.crops import crop, crop_objects


@pytest.fixture
def shapes(tmp_path):
    return make_shapes(tmp_path / 'shapes', train=5, val=3, size=96) / 'coco'


def test_every_object_is_there(shapes, tmp_path):
    out = crop_objects(shapes, tmp_path / 'crops', size=32)
    for split in ('train', 'val'):
        document = json.loads((shapes / f'annotations/instances_{split}2017.json').read_text())
        assert sorted(folder.name for folder in (out / split).iterdir()) == sorted(CLASSES)
        for index, name in enumerate(CLASSES, start=1):
            notes = [
                note['id']
                for note in document['annotations']
                if note['category_id'] == index and min(note['bbox'][2:]) >= 16
            ]
            files = sorted((out / split / name).iterdir())
            assert [int(file.stem) for file in files] == notes
            assert all(cv2.imread(str(file)).shape == (32, 32, 3) for file in files)


def test_crop_samples_the_square_around_the_box():
    """On a picture that is linear in x and y, interpolation gives the coordinates themselves."""
    ys, xs = np.mgrid[:60, :80]
    image = np.stack([xs * 3, ys * 4, 0 * xs], -1).astype(np.uint8)
    box = [20, 10, 20, 30]  # centre (30, 25), the longer side 30, with margins 39
    result = crop(image, box, 13).astype(float)
    steps = (np.arange(13) + 0.5) / 13 * 39 - 39 / 2  # of the pixels' centres from the box's centre
    expected_x, expected_y = 30 + steps - 0.5, 25 + steps - 0.5
    assert np.abs(result[..., 0] / 3 - expected_x).max() < 0.3
    assert np.abs(result[..., 1] / 4 - expected_y[:, None]).max() < 0.3


def test_beyond_the_border_its_pixels_go_on():
    image = np.full((20, 20, 3), 9, np.uint8)
    assert (crop(image, [0, 0, 20, 20], 16) == 9).all()


def test_nothing_is_left_of_an_unreadable_set(shapes, tmp_path):
    victim = sorted((shapes / 'val2017').iterdir())[1]
    victim.write_bytes(b'no image')
    with pytest.raises(UserError, match=f'{victim.name}.* is no image that can be read'):
        crop_objects(shapes, tmp_path / 'crops')
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


def test_what_exists_is_left(shapes, tmp_path):
    out = crop_objects(shapes, tmp_path / 'crops')
    before = {file: file.stat().st_mtime_ns for file in out.rglob('*')}
    crop_objects(shapes, out, size=16)
    assert {file: file.stat().st_mtime_ns for file in out.rglob('*')} == before
