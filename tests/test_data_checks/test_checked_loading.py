"""Loading steps that are wrapped where they stand, and name the file that they stumble over."""

import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose, LoadImageFromFile, RandomApply, TestTimeAug
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.registry import TRANSFORMS
from PIL import Image

from mmvanilla import UserError
from mmvanilla.data_checks import (
    LoadAnnotationsChecked,
    LoadImageFromFileChecked,
    check_paths,
    use_checked_loading,
)

FLIP = dict(type='RandomFlip', prob=0.5)
LOAD = dict(type='LoadImageFromFile')


class OwnLoading(LoadImageFromFile):
    """A step of somebody's own."""

    def transform(self, results):
        return dict(super().transform(results), own=self.to_float32)


@pytest.fixture
def picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    return tmp_path / 'a.png'


def dataset(*pipeline):
    return BaseDataset(pipeline=list(pipeline), lazy_init=True, serialize_data=False)


def test_every_wrapper_of_data_sets_and_of_steps():
    plain = dataset(LOAD, FLIP)
    nested = dataset(dict(type='RandomApply', transforms=[LOAD]), FLIP)
    joined = ConcatDataset([plain, nested], lazy_init=True)
    mixed = SimpleNamespace(dataset=joined, pipeline=[RandomApply([LOAD])])  # as mmdet's
    assert use_checked_loading(plain) == 1
    assert [type(step).__name__ for step in plain.pipeline.transforms] == [
        'LoadImageFromFileChecked',
        'RandomFlip',
    ]
    assert use_checked_loading(plain) == 0  # once is enough
    assert use_checked_loading(mixed) == 2
    assert use_checked_loading(RepeatDataset(dataset(LOAD), times=2, lazy_init=True)) == 1
    assert use_checked_loading(TestTimeAug(transforms=[[LOAD], [FLIP]])) == 1
    assert use_checked_loading(dataset(FLIP)) == use_checked_loading([1, 'a', None]) == 0


@pytest.mark.parametrize('options', [{}, dict(to_float32=True), dict(imdecode_backend='pillow')])
@pytest.mark.parametrize('kind', [LoadImageFromFile, OwnLoading])
def test_what_is_loaded_stays(kind, options, picture):
    steps = [kind(**options)]
    expected = steps[0](dict(img_path=str(picture)))
    use_checked_loading(steps)
    (step,) = pickle.loads(pickle.dumps(steps))  # workers may get it so
    assert isinstance(step, LoadImageFromFileChecked)
    found = step(dict(img_path=str(picture)))
    assert found.keys() == expected.keys()
    assert found['img'].dtype == expected['img'].dtype
    np.testing.assert_array_equal(found['img'], expected['img'])
    configured = TRANSFORMS.build(dict(type='LoadImageFromFileChecked', **options))
    np.testing.assert_array_equal(configured(dict(img_path=str(picture)))['img'], expected['img'])


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize(
    ('damage', 'sentence'),
    [
        (lambda file: file.unlink(), 'does not exist; correct or remove it'),
        (lambda file: file.write_bytes(b''), r'cannot be read \(.+\); correct'),
        (lambda file: file.write_bytes(b'hello'), r'cannot be read \(.+\); correct'),
        (lambda file: (file.unlink(), file.mkdir()), r'cannot be read \(.*directory.*\); correct'),
    ],
)
def test_images_that_cannot_be_read(damage, sentence, backend, picture):
    damage(picture)
    step = LoadImageFromFileChecked(imdecode_backend=backend)
    with pytest.raises(UserError, match=f"^image '{picture}' {sentence}") as error:
        step(dict(img_path=str(picture)))
    assert error.value.__cause__ is not None
    assert '\n' not in str(error.value)


def test_other_faults_keep_their_names(picture):
    class Faulty(LoadImageFromFile):
        def transform(self, results):
            raise RuntimeError('out of memory')

    with pytest.raises(RuntimeError, match='out of memory'):
        LoadImageFromFileChecked(Faulty())(dict(img_path=str(picture)))
    with pytest.raises(KeyError, match='img_path'):
        LoadImageFromFileChecked()({})
    assert LoadImageFromFileChecked(ignore_empty=True)(dict(img_path='nowhere')) is None


def test_the_size_of_the_annotations(picture):
    step = LoadImageFromFileChecked()
    assert step(dict(img_path=str(picture), height=6, width=8))['ori_shape'] == (6, 8)
    with pytest.raises(UserError, match='is 8 x 6 pixels, but its annotations say 6 x 8'):
        step(dict(img_path=str(picture), height=8, width=6))


@pytest.fixture
def labels(tmp_path):
    def write(array, mode=None):
        Image.fromarray(array, mode).save(tmp_path / 'labels.png')
        return dict(
            img_path='a.png',
            seg_map_path=str(tmp_path / 'labels.png'),
            ori_shape=(4, 4),
            seg_fields=[],
            reduce_zero_label=False,
        )

    return write


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_label_maps(backend, labels):
    pytest.importorskip('mmseg')
    steps = [TRANSFORMS.build(dict(type='mmseg.LoadAnnotations', imdecode_backend=backend))]
    assert use_checked_loading(Compose([steps[0]])) == 1
    assert use_checked_loading(steps) == 1
    (step,) = steps
    assert isinstance(step, LoadAnnotationsChecked)
    array = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(step(labels(array))['gt_seg_map'], array)
    for wrong, sentence in [
        (array[:2], 'is 4 x 2 pixels, but its image 4 x 4'),
        (np.stack([array] * 3, -1), 'has several channels .mode RGB., expected one'),
        (np.full((4, 4), 300, np.uint16), 'holds the label 300, expected at most 255'),
    ]:
        with pytest.raises(UserError, match=f"^label map '.*labels.png' {sentence}"):
            step(labels(wrong))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    results = dict(labels(noise), ori_shape=(64, 64))
    with open(results['seg_map_path'], 'r+b') as file:
        file.truncate(1500)
    if backend == 'pillow' or cv2.imread(results['seg_map_path'], -1) is None:
        with pytest.raises(UserError, match=r"label map '.*' cannot be read \(.+\); correct"):
            step(results)
    configured = TRANSFORMS.build(dict(type='LoadAnnotationsChecked', imdecode_backend=backend))
    np.testing.assert_array_equal(configured(labels(array))['gt_seg_map'], array)


def test_paths_of_other_storages_are_not_looked_for(tmp_path):
    def check(**options):
        check_paths(dict(train_dataloader=dict(dataset=dict(type='A', **options))))

    check(data_root='s3://bucket', ann_file='a.json', data_prefix=dict(img='train'))
    check(ann_file='a.json', backend_args=dict(backend='petrel'))
    check(data_root=str(tmp_path), data_prefix='')
    for options in (
        dict(data_root=str(tmp_path), data_prefix='train'),
        dict(data_root=str(tmp_path), ann_file='train', backend_args=dict(backend='local')),
        dict(ann_file=str(tmp_path / 'train')),
    ):
        with pytest.raises(
            UserError, match=f"train_dataloader looks for '{tmp_path}/train', which"
        ):
            check(**options)


def test_a_step_that_reads_maps_of_another_kind_is_left_alone():
    pytest.importorskip('mmseg')
    from mmseg.datasets.transforms import LoadAnnotations

    class LoadNpyMap(LoadAnnotations):
        def transform(self, results):
            return dict(results, gt_seg_map=np.load(results['seg_map_path']))

    pipeline = Compose([LoadNpyMap()])
    assert use_checked_loading(pipeline) == 0
    assert type(pipeline.transforms[0]) is LoadNpyMap
