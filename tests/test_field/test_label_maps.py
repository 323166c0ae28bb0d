"""Label maps that hold other numbers, or options that read them otherwise, than the user thinks."""

import logging
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from PIL import Image

import mmvanilla
from mmvanilla import UserError
from mmvanilla.data_checks import check_annotations, check_datasets, use_checked_loading
from mmvanilla.errors import InputError

pytest.importorskip('mmseg')
EXAMPLES = int(os.environ.get('EXAMPLES', 60))
LOADS = dict(type='LoadImageFromFile')
CLASSES = ('ground', 'road', 'house')
RANGE, MISSING = 'label out of range', 'class in no label map'


@pytest.fixture(autouse=True)
def scope():
    """Enter mmseg's scope, and log nothing."""
    level = MMLogger.get_current_instance().level
    MMLogger.get_current_instance().setLevel(logging.CRITICAL)
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield
    MMLogger.get_current_instance().setLevel(level)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('maps')


def write(root, *maps, mode=None):
    """Write label maps, and a picture for each."""
    shutil.rmtree(root / 'images', ignore_errors=True)
    shutil.rmtree(root / 'maps', ignore_errors=True)
    (root / 'images').mkdir()
    (root / 'maps').mkdir()
    for i, array in enumerate(maps):
        Image.new('RGB', np.shape(array)[1::-1]).save(root / f'images/{i}.jpg')
        Image.fromarray(np.asarray(array), mode).save(root / f'maps/{i}.png')


def config(root, load=(), model=(), **options):
    """Return the config of a data set that is trained on."""
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='maps'),
        pipeline=[LOADS, dict(type='LoadAnnotations', **dict(load)), dict(type='PackSegInputs')],
    )
    options.setdefault('metainfo', dict(classes=CLASSES))
    dataset.update(options)
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(decode_head=dict(model)),
            train_dataloader=dict(dataset=dataset),
        )
    )


def rows(cfg):
    return {row['kind']: row for row in check_datasets(cfg)[0].rows() if row['kind'] != 'greyscale'}


def load(cfg):
    """Load all label maps as a training does; return their labels."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert use_checked_loading(dataset) == 2
    return [np.asarray(dataset[i]['data_samples'].gt_sem_seg.data) for i in range(len(dataset))]


def halves(*values):
    """Return a map (8, 8) of stripes."""
    return np.repeat(np.array(values, np.uint8), 8 // len(values))[None].repeat(8, 0)


# ---- Numbers


def test_masks_of_0_and_255(tmp_path):
    write(tmp_path, halves(0, 255), halves(0, 255))
    cfg = config(tmp_path, metainfo=dict(classes=('ground', 'uav')))
    row = rows(cfg)[MISSING]
    assert not row['error']
    assert row['count'] == 1
    assert all(text in row['examples'][0] for text in ('uav', '255', 'write 1'))
    assert set(np.unique(load(cfg))) == {0, 255}  # so that the loss sees no uav


def test_labels_from_0_where_0_is_unlabelled(tmp_path):
    write(tmp_path, halves(0, 1), halves(1, 2))
    row = rows(config(tmp_path, reduce_zero_label=True))[MISSING]
    assert row['count'] == 1
    assert all(text in row['examples'][0] for text in ('house', 'from 0', 'reduce_zero_label'))


def test_labels_from_1_where_they_should_count_from_0(tmp_path):
    write(tmp_path, halves(1, 2), halves(2, 3))
    found = rows(config(tmp_path))
    assert found[RANGE]['error']
    assert 'from 1' in found[MISSING]['examples'][0]


def test_a_class_that_no_map_has(tmp_path):
    write(tmp_path, halves(0, 0), halves(0, 2))
    row = rows(config(tmp_path))[MISSING]
    assert row['examples'] == ["'road' (1)"]
    assert 'learns' in row['training']
    write(tmp_path, halves(0, 1), halves(0, 2))
    assert rows(config(tmp_path)) == {}


@pytest.mark.parametrize('workers', [1, 4])
def test_classes_are_sought_in_all_maps_whatever_the_threads(tmp_path, workers):
    write(tmp_path, *[halves(i, i) for i in range(20)])
    cfg = config(tmp_path, metainfo=dict(classes=[f'c{i}' for i in range(21)]))
    report, count = check_datasets(cfg, workers=workers)
    assert count == 40
    assert [row['examples'] for row in report.rows()] == [["'c20' (20)"]]


# ---- Options


@pytest.mark.parametrize(('dataset', 'step'), [(True, False), (False, True)])
def test_reduce_zero_label_that_differs(tmp_path, dataset, step):
    write(tmp_path, halves(1, 2, 3, 3))
    cfg = config(tmp_path, dict(reduce_zero_label=step), reduce_zero_label=dataset)
    for check in (lambda: mmvanilla.preflight(cfg, ['train']), lambda: check_datasets(cfg)):
        with pytest.raises(UserError, match='reduce_zero_label') as error:
            check()
        assert str(dataset) in str(error.value)
        assert str(step) in str(error.value)
    with pytest.raises(UserError, match='reduce_zero_label') as error:  # should it come that far
        load(cfg)
    assert not isinstance(error.value, InputError)  # no other file would be better
    assert '0.png' not in str(error.value)


def test_reduce_zero_label_in_a_step_within_steps(tmp_path):
    write(tmp_path, halves(1, 2))
    inner = [dict(type='LoadAnnotations', reduce_zero_label=True)]
    pipeline = [LOADS, dict(type='RandomApply', transforms=inner), dict(type='PackSegInputs')]
    with pytest.raises(UserError, match='reduce_zero_label'):
        check_annotations(config(tmp_path, pipeline=pipeline), ['train'])


@pytest.mark.parametrize('step', [None, True])
def test_reduce_zero_label_that_agrees(tmp_path, step):
    write(tmp_path, halves(0, 1, 2, 3))
    cfg = config(tmp_path, dict(reduce_zero_label=step), reduce_zero_label=True)
    check_annotations(cfg, ['train'])
    assert rows(cfg) == {}
    assert set(np.unique(load(cfg))) == {0, 1, 2, 255}


def test_some_of_a_data_sets_classes(tmp_path):
    """A subset in another order; the label of a class that is left out is no error."""
    classes = ['person', 'road', 'wall']
    metainfo = dict(classes=['wall', 'road'])

    @DATASETS.register_module(name='SubsetOfThree', force=True)
    class Subset(DATASETS.get('mmseg.BaseSegDataset')):
        METAINFO = dict(classes=classes, palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]])

    write(tmp_path, halves(0, 1))
    cfg = config(tmp_path, type='SubsetOfThree', metainfo=metainfo)
    assert rows(cfg)[MISSING]['examples'] == ["'wall' (2)"]  # the number that is in the files
    assert set(np.unique(load(cfg))) == {1, 255}
    write(tmp_path, halves(0, 1, 2, 3))
    assert 'label 3, not 0 to 2' in rows(cfg)[RANGE]['examples'][0]


def test_a_head_that_ignores_another_label(tmp_path):
    write(tmp_path, halves(0, 1), halves(2, 255))
    found = rows(config(tmp_path, model=dict(ignore_index=0)))
    assert all(text in found[RANGE]['examples'][0] for text in ('255', 'ignore_index'))
    assert 'ignore_index' in found[MISSING]['examples'][0]  # of the first class
    write(tmp_path, halves(0, 1), halves(2, 100))
    assert RANGE not in rows(config(tmp_path, model=dict(ignore_index=100)))
    assert RANGE in rows(config(tmp_path, ignore_index=100))  # that of a data set does nothing
    assert 'ignore_index of a data set' in rows(config(tmp_path, ignore_index=100))


def test_a_test_set_without_label_maps(tmp_path):
    write(tmp_path, halves(0, 1))
    shutil.rmtree(tmp_path / 'maps')
    pipeline = [LOADS, dict(type='PackSegInputs')]
    cfg = config(tmp_path, pipeline=pipeline, data_prefix=dict(img_path='images'), test_mode=True)
    assert rows(cfg) == {}
    cfg = config(tmp_path, pipeline=pipeline, data_prefix=dict(img_path='images', seg_map_path=''))
    assert rows(cfg) == {}
    cfg = config(tmp_path, data_prefix=dict(img_path='images'))
    for check in (lambda: check_annotations(cfg, ['train']), lambda: load(cfg)):
        with pytest.raises(UserError, match='seg_map_path'):
            check()


# ---- Forms of the files


def test_palettes(tmp_path):
    write(tmp_path, halves(0, 1), halves(1, 2))
    for file in (tmp_path / 'maps').iterdir():
        image = Image.open(file)
        image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
        image.save(file)
    assert Image.open(file).mode == 'P'
    assert rows(config(tmp_path)) == {}
    assert set(np.unique(load(config(tmp_path)))) == {0, 1, 2}
    cfg = config(tmp_path, dict(imdecode_backend='cv2'))  # which gives colours
    assert 'pillow' in rows(cfg)['label map of several channels']['examples'][0]
    with pytest.raises(InputError, match='several channels.*pillow'):
        load(cfg)


def test_three_channels_that_are_alike(tmp_path):
    write(tmp_path, np.stack([halves(0, 1)] * 3, -1))
    cfg = config(tmp_path)
    assert 'alike' in rows(cfg)['label map of several channels']['examples'][0]
    with pytest.raises(InputError, match='alike'):
        load(cfg)


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_16_bits(tmp_path, backend):
    cfg = config(tmp_path, dict(imdecode_backend=backend))
    write(tmp_path, halves(0, 1).astype(np.uint16), halves(2, 255).astype(np.uint16))
    assert not any(row['error'] for row in rows(cfg).values())
    assert set(np.unique(load(cfg))) == {0, 1, 2, 255}
    write(tmp_path, halves(0, 1).astype(np.uint16) * 257)
    assert rows(cfg)[RANGE]['error']
    with pytest.raises(InputError, match='257'):
        load(cfg)


def test_maps_and_images_that_pillow_finds_too_large(tmp_path, monkeypatch):
    """Its limit is 178,956,970 pixels; OpenCV, which reads the images, has one of 2**30."""
    write(tmp_path, halves(0, 1), halves(1, 2))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
    cfg = config(tmp_path)
    found = rows(cfg)
    assert found.keys() == {'label map too large to be read'}
    assert 'cv2' in found['label map too large to be read']['examples'][0]
    with pytest.raises(InputError, match="label map .*DecompressionBombError.*'cv2'"):
        load(cfg)
    cfg = config(tmp_path, dict(imdecode_backend='cv2'))
    for decode in (False, True):
        assert check_datasets(cfg, decode, workers=4)[0].rows() == []
    assert set(np.unique(load(cfg))) == {0, 1, 2}
    pillow = dict(LOADS, imdecode_backend='pillow')
    cfg.train_dataloader.dataset.pipeline[0] = pillow
    assert rows(cfg).keys() == {'image too large to be read'}
    with pytest.raises(InputError, match="image .*DecompressionBombError.*'cv2'"):
        load(cfg)
    assert Image.MAX_IMAGE_PIXELS == 20


# ---- Faults of others


def faulty(base, error):
    """Make a loading step of somebody's own that raises."""

    class Faulty(base):
        def transform(self, results):
            raise error

    return Faulty()


@pytest.mark.parametrize('kind', [ValueError, IndexError, SyntaxError, EOFError, KeyError])
def test_a_fault_of_a_step_of_ones_own_keeps_its_name(tmp_path, kind):
    write(tmp_path, halves(0, 1))
    base = TRANSFORMS.get('mmcv.LoadImageFromFile')
    steps = [faulty(base, kind('gamma must be positive'))]
    assert use_checked_loading(Compose(steps)) == 1
    assert use_checked_loading(steps) == 1
    good = str(tmp_path / 'images/0.jpg')
    with pytest.raises(kind, match='gamma must be positive') as error:
        steps[0](dict(img_path=good))
    assert not isinstance(error.value, UserError)
    (tmp_path / 'images/0.jpg').write_bytes(b'no image')
    with pytest.raises(InputError, match='0.jpg.*cannot be read'):
        steps[0](dict(img_path=good))


def test_a_backend_that_does_not_exist_is_no_fault_of_the_file(tmp_path):
    write(tmp_path, halves(0, 1))
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset.pipeline[0] = dict(LOADS, imdecode_backend='opencv')
    with pytest.raises(ValueError, match='backend: opencv is not supported') as error:
        load(cfg)
    assert not isinstance(error.value, InputError)


def test_the_class_of_a_decoders_error_is_told(tmp_path):
    write(tmp_path, np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8))
    file = tmp_path / 'maps/0.png'
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InputError, match=r'label map .*0\.png.* cannot be read \([A-Za-z]*Error: '):
        load(config(tmp_path))


# ---- Any numbers and options


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize='EXAMPLES' not in os.environ,
    suppress_health_check=[*HealthCheck],
)
@given(
    numbers=st.lists(
        st.lists(st.sampled_from([0, 1, 2, 3, 4, 7, 254, 255, 256, 258]), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    ),
    form=st.sampled_from(['L', 'P', 'I;16', 'RGB']),
    backend=st.sampled_from(['pillow', 'cv2']),
    dataset=st.booleans(),
    step=st.sampled_from([None, None, True, False]),
    ignored=st.sampled_from([255, 255, 0, 3]),
    classes=st.integers(1, 4),
)
def test_any_numbers(folder, numbers, form, backend, dataset, step, ignored, classes):
    """What is told of the files is what the loss would get."""
    arrays = [np.resize(np.array(row, np.uint16), (4, 6)) for row in numbers]
    if form != 'I;16':
        arrays = [array.clip(max=255).astype(np.uint8) for array in arrays]
    write(folder, *[np.stack([a] * 3, -1) if form == 'RGB' else a for a in arrays])
    if form == 'P':
        for file in (folder / 'maps').iterdir():
            image = Image.open(file)
            image.putpalette(list(range(256)) * 3)
            image.save(file)
    names = [f'c{i}' for i in range(classes)]
    options = dict(imdecode_backend=backend, reduce_zero_label=step)
    cfg = config(
        folder,
        options,
        dict(ignore_index=ignored),
        metainfo=dict(classes=names),
        reduce_zero_label=dataset,
    )
    differ = step is not None and step != dataset
    if differ:
        for check in (rows, load):
            with pytest.raises(UserError, match='reduce_zero_label'):
                check(cfg)
        return
    found = rows(cfg)
    try:
        got = set(np.unique(load(cfg)).tolist())
    except InputError:
        got = None
    wrong = got is None or got - {*range(classes), ignored}
    assert any(row['error'] for row in found.values()) == bool(wrong)
    if got is not None:
        missing = set(range(classes)) - (got - {ignored})
        assert found.get(MISSING, dict(count=0))['count'] == len(missing)
