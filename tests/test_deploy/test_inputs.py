"""Which files are predicted, and how they are read."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmvanilla.deploy.predict import InputError, find_inputs, inputs, read_image
from mmvanilla.deploy.predict.inputs import as_bgr


@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'a.JPG', 'a.png', 'clip.mp4', 'notes.txt', 'odd[1].png'):
        (tmp_path / name).write_text('content')
    (tmp_path / 'more').mkdir()
    (tmp_path / 'more/b.png').write_text('content')
    return tmp_path


def names(arguments):
    return [item.name for item in find_inputs(map(str, arguments))]


def test_a_folder_gives_its_images_and_videos(folder):
    assert names([folder]) == ['a', 'a_2', 'b', 'clip', 'odd[1]']
    assert [item.is_video for item in find_inputs([str(folder)])] == [False] * 3 + [True, False]


def test_patterns_and_files(folder):
    assert names([folder / '*.png']) == ['a', 'b', 'odd[1]']
    assert names([folder / 'odd[1].png']) == ['odd[1]']  # a file, though it reads like a pattern
    assert names([folder / 'notes.txt']) == ['notes']  # what is named is tried


def test_every_file_once_and_every_name_once(folder):
    assert names([folder / 'b.png', folder / '*.png']) == ['b', 'a', 'odd[1]']
    assert names([folder / 'b.png', folder / 'more']) == ['b', 'b_2']


@pytest.mark.parametrize(
    ('argument', 'sentence'),
    [('none.png', 'does not exist'), ('*.tif', 'matches no file'), ('empty', 'holds no images')],
)
def test_nothing_to_predict(argument, sentence, folder):
    (folder / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=sentence):
        find_inputs([str(folder / argument)])


def test_an_image_is_read_as_its_camera_was_held(tmp_path):
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:10] = (255, 0, 0)  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / 'turned.jpg', exif=exif, quality=95)
    image = read_image(str(tmp_path / 'turned.jpg'))
    assert image.shape == (30, 20, 3)
    assert image[15, 15, 2] > 200  # BGR; what was above is on the right
    assert image[15, 5, 2] < 50


def test_grey_and_transparent_images_have_three_channels(tmp_path):
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((5, 6), 7, dtype=np.uint8))
    cv2.imwrite(str(tmp_path / 'clear.png'), np.full((5, 6, 4), 7, dtype=np.uint8))
    for name in ('grey.png', 'clear.png'):
        assert (read_image(str(tmp_path / name)) == np.full((5, 6, 3), 7)).all()


def test_thousands_of_files_of_one_name(monkeypatch):
    """A search for each name among all others would take many minutes."""
    files = [f'/photos/{number}/image.png' for number in range(50_000)]
    monkeypatch.setattr(inputs, 'expand', lambda argument: files)
    found = find_inputs(['photos'])
    assert [item.name for item in found[:3]] == ['image', 'image_2', 'image_3']
    assert len({item.name for item in found}) == len(files)


PIXELS = np.random.default_rng(0).integers(2, 256, (6, 8, 3), dtype=np.uint8)
OPAQUE = np.full((6, 8, 1), 200, np.uint8)


@pytest.mark.parametrize(
    'image',
    [
        PIXELS,
        PIXELS.astype(np.float32),
        PIXELS - 0.25,
        np.dstack([PIXELS, OPAQUE]),
        np.asfortranarray(PIXELS),
        Image.fromarray(PIXELS[..., ::-1]),
        Image.fromarray(np.dstack([PIXELS[..., ::-1], OPAQUE])),
    ],
)
def test_arrays_and_images_in_memory(image):
    found = as_bgr(image)
    assert np.array_equal(found, PIXELS)
    assert found.dtype == np.uint8
    assert found.flags['C_CONTIGUOUS']


def test_grey_and_turned_images_in_memory(tmp_path):
    for grey in (PIXELS[..., 0], PIXELS[..., :1], Image.fromarray(PIXELS[..., 0])):
        assert np.array_equal(as_bgr(grey), PIXELS[..., [0, 0, 0]])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / 'turned.png', exif=exif)
    with Image.open(tmp_path / 'turned.png') as turned:
        found = as_bgr(turned)
    assert found.shape == (8, 6, 3)
    assert np.array_equal(found, read_image(str(tmp_path / 'turned.png')))
    assert as_bgr(np.zeros((4, 4, 3))).max() == 0  # a black one is no image of 0 to 1


@pytest.mark.parametrize(
    ('image', 'named'),
    [
        (PIXELS / 255, r'from 0\.00\d+ to'),
        (PIXELS.astype(np.float32) - 100, 'from -98'),
        (PIXELS * np.float32(2), 'from 4 to 4'),
        (np.full((4, 4, 3), np.nan), 'nan'),
        (PIXELS.astype(np.uint16) * 257, 'uint16'),
        (PIXELS.astype(np.int64), 'int64'),
        (PIXELS > 9, 'bool'),
        (PIXELS.transpose(2, 0, 1), r'\(3, 6, 8\)'),
        (PIXELS[:0], r'\(0, 8, 3\)'),
        (PIXELS[None], r'\(1, 6, 8, 3\)'),
        (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), 'uint16'),
        (PIXELS.tolist(), 'list'),
        (None, 'NoneType'),
    ],
)
def test_arrays_of_another_meaning_are_refused(image, named):
    with pytest.raises(InputError, match=f'image of .*{named}.*; expected'):
        as_bgr(image)
