"""Name the file and the pipeline step of an item that fails to load."""

import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset, ConcatDataset, MultiImageMixDataset
from mmdet.datasets.transforms import Resize
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import BaseDataset, RepeatDataset, default_collate, pseudo_collate
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from mmvanilla import UserError, make_shapes
from mmvanilla.checks import Items, seed_all
from mmvanilla.checks.items import Draw
from mmvanilla.errors import InputError, sentence

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
RESIZE = dict(type='Resize', scale=(32, 24), keep_ratio=True)
PACK = dict(type='PackDetInputs')


@pytest.fixture(scope='module', autouse=True)
def scope():
    init_default_scope('mmdet')


@pytest.fixture
def root(tmp_path):
    return make_shapes(tmp_path / 'shapes', train=4, val=1, size=64) / 'coco'


@pytest.fixture
def build(root):
    def run(*steps, **options):
        options = dict(test_mode=False, metainfo=None) | options
        return CocoDataset(
            data_root=f'{root}/',
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            pipeline=[*LOAD, *steps],
            **options,
        )

    return run


@TRANSFORMS.register_module()
class BrokenResize(Resize):
    def transform(self, results):
        raise ValueError('no size')


def file_of(root, number=2):
    return root / f'train2017/{number:012d}.jpg'


def stretch(root):
    """Make an image 40 pixels wide and 6000 high, which Resize makes 0 wide."""
    image = np.zeros((6000, 10, 3), np.uint8)
    cv2.imwrite(str(file_of(root)), image)


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_whose_resized_side_rounds_to_0(workers, test_mode, root, build):
    stretch(root)
    items = Items(build(RESIZE, PACK, test_mode=test_mode))
    loader = DataLoader(items, num_workers=workers, collate_fn=pseudo_collate)
    with pytest.raises(UserError) as error:
        list(loader)
    text = sentence(error.value)
    assert str(file_of(root)) in text
    assert '10 x 6000' in text
    assert 'Resize' in text
    assert '\n' not in text
    if not workers:
        assert isinstance(error.value.__cause__, cv2.error)


def test_a_step_inside_of_steps(root, build):
    stretch(root)
    choice = dict(type='RandomChoice', transforms=[[RESIZE]])
    with pytest.raises(InputError, match=f'{file_of(root)}.* fails in Resize'):
        Items(build(choice, PACK))[1]


def test_a_step_that_is_a_function(root, build):
    def broken(results):
        raise RuntimeError('no such colour')

    dataset = build()
    dataset.pipeline.transforms.append(broken)
    with pytest.raises(InputError, match=f'{file_of(root)}.* fails in broken .*no such colour'):
        Items(dataset)[1]


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda file: file.unlink(), 'does not exist'),
        (lambda file: file.write_bytes(b''), 'cannot be read (empty file)'),
        (lambda file: file.write_bytes(b'hello'), 'cannot be read'),
        (lambda file: (file.unlink(), file.mkdir()), 'cannot be read'),
    ],
)
def test_images_that_cannot_be_read(damage, words, root, build):
    damage(file_of(root))
    with pytest.raises(InputError) as error:
        Items(build(PACK))[1]
    assert str(file_of(root)) in str(error.value)
    assert words in str(error.value)


def test_an_image_of_another_size_than_annotated(root, build):
    Image.open(file_of(root)).resize((64, 48)).save(file_of(root))
    text = 'is 64 x 48 pixels, but its annotations say 64 x 64'
    for dataset in (build(PACK), RepeatDataset(build(PACK), 2)):
        with pytest.raises(InputError, match=text):
            Items(dataset)[1]
    assert Items(build(PACK), check=False)[1] is not None


def test_files_are_named_after_the_pipeline_switched(build):
    """A recipe's last epochs have another pipeline, in mmdet's way and in mmpretrain's."""
    SwitchRecipeHook = pytest.importorskip('mmpretrain.engine.hooks').SwitchRecipeHook
    switched = [*LOAD, dict(type='BrokenResize', scale=(8, 8)), PACK]
    hooks = [
        PipelineSwitchHook(1, switched),
        SwitchRecipeHook([dict(action_epoch=2, train_pipeline=switched)]),
    ]
    for hook in hooks:
        items = Items(build(PACK))
        loader = DataLoader(
            items, num_workers=1, persistent_workers=True, collate_fn=pseudo_collate
        )
        runner = SimpleNamespace(
            epoch=1, train_dataloader=loader, logger=SimpleNamespace(info=lambda *_: None)
        )
        runner.train_loop = SimpleNamespace(dataloader=loader, run_iter=None)
        assert len(list(loader)) == 4
        hook.before_train_epoch(runner)
        with pytest.raises(UserError, match='fails in BrokenResize') as error:
            list(loader)
        assert 'train2017' in sentence(error.value)


def test_mixed_images(root, build):
    stretch(root)
    mosaic = dict(type='Mosaic', img_scale=(32, 32))
    dataset = MultiImageMixDataset(build(RESIZE), [mosaic, PACK])
    items = Items(dataset)
    items.update_skip_type_keys(['Mosaic'])
    assert dataset._skip_type_keys == ['Mosaic']
    with pytest.raises(InputError, match=str(file_of(root))):
        items[1]


def test_samplers_and_hooks_find_the_attributes_of_the_data_set(build):
    joined = ConcatDataset([build(PACK), build(PACK)])
    items = Items(joined)
    assert items.cumulative_sizes == [4, 8]
    assert items.datasets == joined.datasets
    assert items.metainfo == joined.metainfo
    assert len(items) == 8
    dataset = build(PACK)
    items = Items(dataset)
    assert items.get_cat_ids(0) == dataset.get_cat_ids(0)
    assert not hasattr(items, 'dataset')
    assert not hasattr(items, 'cumulative_sizes')
    items.pipeline = 'another'
    assert dataset.pipeline == 'another'


def test_items_can_be_pickled_for_spawned_workers(build):
    items = pickle.loads(pickle.dumps(Items(build(PACK), 3)))
    assert (items.seed, len(items)) == (3, 4)
    assert items[0]['inputs'].shape == (3, 64, 64)


def test_data_sets_of_somebody_else():
    items = Items(TensorDataset(torch.arange(4)))
    assert [int(batch[0]) for batch in DataLoader(items, collate_fn=default_collate)] == [
        0,
        1,
        2,
        3,
    ]
    assert len(list(items)) == 4  # an IndexError ends a loop
    assert Items([None, 1])[0] is None

    class Broken(torch.utils.data.Dataset):
        def __getitem__(self, index):
            raise KeyError('label')

        def __len__(self):
            return 1

    with pytest.raises(InputError, match='item 0 cannot be loaded .*label'):
        Items(Broken())[0]


def test_draws_follow_from_seed_epoch_and_index():
    class Drawn(BaseDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return float(np.random.rand()), float(torch.rand(()))

    items = Items(Drawn(lazy_init=True), 0)
    first = [items[Draw(i, (0, i))] for i in range(4)]
    assert [items[Draw(i, (0, i))] for i in reversed(range(4))] == first[::-1]
    second = [items[Draw(i, (1, i))] for i in range(4)]
    shifted = [Items(Drawn(lazy_init=True), 1)[Draw(i, (0, i))] for i in range(4)]
    draws = [*first, *second, *shifted]
    assert len({pair[0] for pair in draws}) == len({pair[1] for pair in draws}) == 12
    state = np.random.get_state()[1].copy()
    Items([1], None)[Draw(0, (1,))]
    assert (np.random.get_state()[1] == state).all()


def test_seed_all_is_the_same_in_a_worker():
    class Drawn(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            seed_all(1, 2, 3)
            return torch.rand(3)

    (batch,) = DataLoader(Drawn(), num_workers=1)
    seed_all(1, 2, 3)
    assert torch.equal(batch[0], torch.rand(3))


# ---- Label maps


@pytest.fixture
def maps(tmp_path):
    from mmseg.datasets import BaseSegDataset

    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    Image.new('RGB', (8, 6)).save(tmp_path / 'images/a.jpg')

    def build(labels, load='mmseg.LoadAnnotations', mode=None, **options):
        Image.fromarray(labels, mode).save(tmp_path / 'labels/a.png')
        prefix = dict(img_path=str(tmp_path / 'images'), seg_map_path=str(tmp_path / 'labels'))
        steps = [
            dict(type='LoadImageFromFile'),
            dict(type=load, **options) if isinstance(load, str) else load,
            dict(type='mmseg.PackSegInputs'),
        ]
        return Items(
            BaseSegDataset(data_prefix=prefix, metainfo=dict(classes=['a', 'b']), pipeline=steps)
        )

    return build


LABELS = np.ones((6, 8), np.uint8)


def test_whole_label_maps(maps):
    np.testing.assert_array_equal(maps(LABELS)[0]['data_samples'].gt_sem_seg.data[0], LABELS)


@pytest.mark.parametrize(
    ('labels', 'words'),
    [
        (LABELS[:4], 'is 8 x 4 pixels, but its image 8 x 6'),
        (np.stack([LABELS] * 3, -1), 'several channels .mode RGB.'),
        (np.full((6, 8), 300, np.uint16), 'holds the label 300, expected at most 255'),
    ],
)
def test_label_maps_that_do_not_fit(labels, words, maps):
    with pytest.raises(InputError, match=f'label map .*a.png.* {words}'):
        maps(labels)[0]


def test_label_maps_in_jpeg(maps, tmp_path):
    items = maps(LABELS)
    noise = np.random.default_rng(0).integers(0, 47, (6, 8), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'labels/a.png', 'JPEG')  # under the name of a PNG
    with pytest.raises(InputError, match='label map .*a.png.* is a JPEG file'):
        items[0]


def test_a_palette_that_opencv_makes_colours_of(maps):
    with pytest.raises(InputError, match="imdecode_backend='pillow'"):
        maps(LABELS, mode='P', imdecode_backend='cv2')[0]
    assert maps(LABELS, mode='P')[0] is not None


def test_a_truncated_label_map(maps, tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (6, 8), np.uint8)
    items = maps(noise)
    file = tmp_path / 'labels/a.png'
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match='label map .*a.png.* cannot be read'):
        items[0]


def test_a_step_that_reads_maps_of_another_kind_is_left_alone(maps):
    from mmseg.datasets.transforms import LoadAnnotations

    class LoadColours(LoadAnnotations):
        def transform(self, results):
            colours = np.asarray(Image.open(results['seg_map_path']))
            results['seg_fields'].append('gt_seg_map')
            return dict(results, gt_seg_map=colours[..., 0])

    items = maps(np.stack([LABELS] * 3, -1), LoadColours())
    assert items[0]['data_samples'].gt_sem_seg.data.max() == 1
