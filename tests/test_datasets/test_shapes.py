"""The generated data set, read by the libraries of its users."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import mmvanilla  # noqa: F401  (installs mmcv's operators)
from mmvanilla.datasets import CLASSES, METAINFO_DET, METAINFO_SEG, PALETTE, make_shapes

TOOL = Path(__file__).parents[2] / 'tools/make_shapes.py'
TRAIN, VAL, SIZE = 80, 40, 96
SPLITS = [('train2017', 'training', TRAIN), ('val2017', 'validation', VAL)]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', TRAIN, VAL, SIZE)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def load_coco(root, split):
    return COCO(root / 'coco/annotations' / f'instances_{split}.json')


def load_labels(root, split):
    paths = sorted((root / 'ADEChallengeData2016/annotations' / split).iterdir())
    return [np.asarray(Image.open(path)) for path in paths]


# ---- Same arguments, same bytes


def test_same_arguments_give_the_same_bytes(tmp_path):
    first, second = (contents(make_shapes(tmp_path / n, 3, 2, 64)) for n in ('a', 'b'))
    assert len(first) == 1 + 2 + 3 * 5
    assert first == second


def test_another_seed_gives_other_pictures(tmp_path):
    first, second = (contents(make_shapes(tmp_path / str(seed), 3, 2, 64, seed)) for seed in (0, 1))
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first if name.endswith('.jpg'))


def test_the_pictures_do_not_depend_on_their_number(tmp_path):
    few, more = (contents(make_shapes(tmp_path / str(n), n, n, 64)) for n in (1, 2))
    pictures = [name for name in few if not name.endswith('.json')]
    assert len(pictures) == 6
    assert all(few[name] == more[name] for name in pictures)


def test_splits_share_no_image_and_no_id(root):
    train, val = (load_coco(root, split).imgs for split, _, _ in SPLITS)
    assert not set(train) & set(val)
    pictures = [
        cv2.imread(str(path)).tobytes()
        for split, _, _ in SPLITS
        for path in (root / 'coco' / split).iterdir()
    ]
    assert len(set(pictures)) == TRAIN + VAL


# ---- Layout


@pytest.mark.parametrize(('split', 'ade_split', 'count'), SPLITS)
def test_both_layouts_hold_the_same_pictures(root, split, ade_split, count):
    coco, ade = root / 'coco' / split, root / 'ADEChallengeData2016'
    listed = [image['file_name'] for image in load_coco(root, split).dataset['images']]
    pictures = sorted((ade / 'images' / ade_split).iterdir())
    labels = sorted((ade / 'annotations' / ade_split).iterdir())
    assert len(pictures) == count
    assert listed == sorted(path.name for path in coco.iterdir())
    assert [path.stem for path in pictures] == [path.stem for path in labels]
    for name, picture, label in zip(listed, pictures, labels, strict=True):
        assert (coco / name).read_bytes() == picture.read_bytes()
        assert Image.open(picture).size == Image.open(label).size == (SIZE, SIZE)
        assert Image.open(label).mode == 'L'


@pytest.mark.parametrize(('split', 'ade_split', '_'), SPLITS)
def test_every_class_is_in_both_splits(root, split, ade_split, _):
    coco = load_coco(root, split)
    assert [coco.cats[i]['name'] for i in sorted(coco.cats)] == list(CLASSES)
    assert {note['category_id'] for note in coco.anns.values()} == {1, 2, 3, 4, 5, 6}
    labels = np.stack(load_labels(root, ade_split))
    assert set(range(1, 8)) <= set(np.unique(labels)) <= set(range(8))
    assert (labels == 0).mean() < 0.001


def test_mmdet_reads_the_coco_layout(root):
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    data = CocoDataset(
        data_root=str(root / 'coco'),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        metainfo=METAINFO_DET,
        pipeline=[],
    )
    assert len(data) == VAL
    assert data.metainfo['classes'] == CLASSES
    coco = load_coco(root, 'val2017')
    for sample in (data[i] for i in range(5)):
        sample = LoadAnnotations(with_bbox=True, with_mask=True)(LoadImageFromFile()(sample))
        notes = coco.imgToAnns[sample['img_id']]
        assert sample['img'].shape == (SIZE, SIZE, 3)
        assert sample['gt_bboxes_labels'].tolist() == [n['category_id'] - 1 for n in notes]
        np.testing.assert_array_equal(
            sample['gt_masks'].masks, np.stack([coco.annToMask(n) for n in notes])
        )


def test_mmseg_reads_the_ade20k_layout(root):
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    data = BaseSegDataset(
        data_root=str(root / 'ADEChallengeData2016'),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        reduce_zero_label=True,
        metainfo=METAINFO_SEG,
        pipeline=[],
    )
    assert len(data) == VAL
    assert data.metainfo['classes'] == ('background', *CLASSES)
    assert len(data.metainfo['palette']) == 1 + len(PALETTE)
    for index, labels in enumerate(load_labels(root, 'validation')[:5]):
        loaded = LoadAnnotations()(data[index])['gt_seg_map']
        np.testing.assert_array_equal(loaded, np.where(labels == 0, 255, labels.astype(int) - 1))


# ---- Targets


@pytest.mark.parametrize(('split', 'ade_split', '_'), SPLITS)
def test_polygons_are_the_labelled_pixels(root, split, ade_split, _):
    """Per image: the polygons of all shapes tile the label map, each pixel taken once."""
    coco = load_coco(root, split)
    for image_id, labels in zip(sorted(coco.imgs), load_labels(root, ade_split), strict=True):
        painted = np.zeros_like(labels, int)
        for note in coco.imgToAnns[image_id]:
            painted += coco.annToMask(note) * (note['category_id'] + 1)
        np.testing.assert_array_equal(painted, np.where(labels == 1, 0, labels))


@pytest.mark.parametrize('split', ['train2017', 'val2017'])
def test_boxes_and_areas_are_those_of_the_masks(root, split):
    coco = load_coco(root, split)
    for note in coco.anns.values():
        mask = coco.annToMask(note)
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert note['bbox'] == [columns[0], rows[0], width, height]
        assert note['area'] == mask.sum()
        assert note['iscrowd'] == 0


def test_an_annotation_is_the_visible_part_of_its_shape(root):
    """Shapes do cover one another, yet no two masks of an image share a pixel or vanish."""
    coco = load_coco(root, 'train2017')
    boxes_overlap = 0
    for image_id in coco.imgs:
        masks = [coco.annToMask(note) for note in coco.imgToAnns[image_id]]
        assert 1 <= len(masks) <= 5
        assert np.sum(masks, 0).max() == 1
        assert min(mask.sum() for mask in masks) > 20
        boxes = np.zeros((SIZE, SIZE), int)
        for note in coco.imgToAnns[image_id]:
            x, y, width, height = note['bbox']
            boxes[y : y + height, x : x + width] += 1
        boxes_overlap += boxes.max() > 1
    assert boxes_overlap > TRAIN / 4


def test_trace_follows_pixel_edges():
    """Against a hand-drawn mask: two pixels that touch at a corner, and an L."""
    from mmvanilla.datasets.shapes import trace

    mask = np.zeros((6, 7), bool)
    mask[0, 0] = mask[1, 1] = True
    mask[3:6, 4] = mask[5, 4:7] = True
    areas = sorted(cv2.contourArea(outline.astype(np.float32)) for outline in trace(mask))
    corners = sorted(sorted(map(tuple, outline.tolist())) for outline in trace(mask))
    assert areas == [2, 5]
    assert corners[1] == [(4, 3), (4, 6), (5, 3), (5, 5), (7, 5), (7, 6)]
    assert {(0, 0), (2, 2), (1, 0), (0, 1), (2, 1), (1, 2), (1, 1)} == set(corners[0])


# ---- Neither colour nor place gives the class away


def features_of(root, split):
    """Mean colour (N, 3), place and size (N, 3), class (N,) of every object."""
    coco = load_coco(root, split)
    colours, places, classes = [], [], []
    for note in coco.anns.values():
        file_name = coco.imgs[note['image_id']]['file_name']
        mask = coco.annToMask(note) == 1
        colours.append(cv2.imread(str(root / 'coco' / split / file_name))[mask].mean(0))
        ys, xs = np.nonzero(mask)
        places.append((xs.mean(), ys.mean(), np.sqrt(mask.sum())))
        classes.append(note['category_id'])
    return np.array(colours), np.array(places), np.array(classes)


def test_colour_helps_but_does_not_decide(root):
    """A nearest-mean classifier of mean colours; chance is 0.17."""
    *train, classes = features_of(root, 'train2017')
    *val, truth = features_of(root, 'val2017')
    scores = []
    for fit, new in zip(train, val, strict=True):
        means = np.stack([fit[classes == c].mean(0) for c in range(1, 7)])
        nearest = np.linalg.norm(new[:, None] - means, axis=-1).argmin(1) + 1
        scores.append((nearest == truth).mean())
    colour, place = scores
    assert 0.5 < colour < 0.92
    assert place < 0.35


# ---- Folders


def test_a_second_run_changes_nothing(tmp_path):
    make_shapes(tmp_path / 'set', 2, 1, 64)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / 'set').rglob('*')}
    calls = []
    make_shapes(tmp_path / 'set', 2, 1, 64, on_image=lambda: calls.append(1))
    assert not calls
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / 'set').rglob('*')}


def test_other_arguments_replace_the_set(tmp_path):
    make_shapes(tmp_path / 'set', 2, 1, 64)
    make_shapes(tmp_path / 'set', 1, 1, 80)
    assert contents(tmp_path / 'set') == contents(make_shapes(tmp_path / 'fresh', 1, 1, 80))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['fresh', 'set']


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / 'set').mkdir()
    assert (make_shapes(tmp_path / 'set', 1, 0, 64) / 'shapes.json').exists()


@pytest.mark.parametrize('content', [None, '{}', 'not json', '[1]'])
def test_a_foreign_folder_is_left_alone(tmp_path, content):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos/cat.jpg').write_text('mine')
    if content:
        (tmp_path / 'photos/shapes.json').write_text(content)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match='not a set of shapes'):
        make_shapes(tmp_path / 'photos', 1, 1, 64)
    assert contents(tmp_path) == before


@pytest.mark.parametrize('earlier', [False, True])
def test_an_interrupted_run_leaves_nothing(tmp_path, earlier):
    if earlier:
        make_shapes(tmp_path / 'set', 1, 1, 64)
    before = contents(tmp_path)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / 'set', 2, 1, 64, on_image=stop)
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == earlier


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(size=63), 'size must be an integer of at least 64, not 63'),
        (dict(size=96.0), 'size must be an integer'),
        (dict(train=-1), 'train must be an integer of at least 0, not -1'),
        (dict(val=-1), 'val must be'),
        (dict(seed='0'), "seed must be an integer of at least 0, not '0'"),
        (dict(seed=True), 'seed must be'),
    ],
)
def test_bad_arguments(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        make_shapes(tmp_path / 'set', **arguments)
    assert not list(tmp_path.iterdir())


# ---- Command line


def test_the_tool_writes_the_set_and_a_contact_sheet(tmp_path, run_tool):
    out = tmp_path / 'set'
    sizes = ('--train', 5, '--val', 1, '--size', 64, '--seed', 3)
    code, printed, _ = run_tool('make_shapes.py', '--out', out, *sizes)
    assert code == 0
    assert '5 training and 1 validation images' in printed
    stamp = json.loads((out / 'shapes.json').read_text())
    assert (stamp['train'], stamp['val'], stamp['size'], stamp['seed']) == (5, 1, 64, 3)
    sheet = cv2.imread(str(out / 'preview.png'))
    picture = cv2.imread(str(out / 'coco/train2017/000000000001.jpg'))
    assert sheet.shape == (2 * 64, 4 * 128, 3)  # the five take a row of four and one more
    assert (sheet[:64, :64] == picture).all(-1).mean() > 0.5  # the rest is drawn over
    assert not sheet[64:, 128:].any()


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (('--size', 10), 'make_shapes.py: error: size must be an integer of at least 64, not 10'),
        (('--train', 'x'), "make_shapes.py: error: argument --train: invalid int value: 'x'"),
        (('--out', TOOL), f'make_shapes.py: error: {TOOL} exists and is not a set of shapes'),
    ],
)
def test_the_tool_reports_mistakes_in_one_sentence(tmp_path, run_tool, arguments, sentence):
    code, _, error = run_tool('make_shapes.py', '--out', tmp_path / 'set', *arguments)
    assert code == 2
    assert error.strip().splitlines()[-1].startswith(sentence)
    assert not list(tmp_path.iterdir())
