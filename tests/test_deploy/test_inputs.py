"""Which files are predicted, and how they are read."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmvanilla.deploy.predict import find_inputs, read_image


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
