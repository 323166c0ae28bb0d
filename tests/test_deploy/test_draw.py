"""Pictures of predictions: colors, lines and labels at the pixels where they belong."""

from itertools import combinations

import cv2
import numpy as np
import pytest
import supervision as sv
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvanilla.deploy.draw import Annotator, first_free
from mmvanilla.deploy.predict.results import as_picture
from mmvanilla.deploy.show import make_annotator
from mmvanilla.errors import UserError

PALETTE = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]  # RGB
CLASSES = ('cat', 'dog', 'bird')
GRAY = 100


def gray(height=120, width=160):
    return np.full((height, width, 3), GRAY, np.uint8)


def detected(boxes, labels, **rest):
    instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32))
    instances.labels = torch.tensor(labels)
    instances.scores = rest.pop('scores', torch.full((len(labels),), 0.9))
    for name, value in rest.items():
        instances[name] = value
    sample = BaseDataElement()
    sample.pred_instances = instances
    return sample


def segmented(labels):
    sample = BaseDataElement()
    sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
    return sample


def classified(scores):
    sample = BaseDataElement()
    sample.pred_score = torch.tensor(scores)
    return sample


def draw(sample, picture=None, classes=CLASSES, palette=PALETTE, **options):
    picture = gray() if picture is None else picture
    before = picture.copy()
    drawn = Annotator(classes, palette, **options).prediction(picture, sample)
    assert np.array_equal(picture, before)
    assert (drawn.shape, drawn.dtype) == (picture.shape, np.uint8)
    return drawn


def half(label):
    """Return the BGR color of a class, blended with gray."""
    return [(GRAY + value) / 2 for value in PALETTE[label][::-1]]


@pytest.fixture
def labels_at(monkeypatch):
    """Return the text and the background (x1, y1, x2, y2), inclusive, of each drawn label."""
    seen = []

    def draw_text(scene, text, *args, **options):
        before = scene.copy()
        scene[:] = 0
        draw_original(scene, text, *args, **options)
        rows, columns = np.nonzero(scene.any(2))
        seen.append((text, (columns.min(), rows.min(), columns.max(), rows.max())))
        scene[:] = before
        return draw_original(scene, text, *args, **options)

    draw_original = sv.draw_text
    monkeypatch.setattr(sv, 'draw_text', draw_text)
    return seen


@pytest.mark.parametrize('kind', ['tensor', 'array', 'bitmap'])
def test_a_mask_takes_the_color_of_its_class(kind):
    mask = np.zeros((1, 120, 160), bool)
    cv2.circle(mask[0].view(np.uint8), (100, 70), 25, 1, -1)
    if kind == 'tensor':
        masks = torch.from_numpy(mask)
    elif kind == 'bitmap':
        from mmdet.structures.mask import BitmapMasks

        masks = BitmapMasks(mask.astype(np.uint8), 120, 160)
    else:
        masks = mask
    drawn = draw(detected([[75, 45, 126, 96]], [2], masks=masks))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask[0].view(np.uint8), cross).astype(bool)
    assert np.abs(drawn[inner] - half(2)).max() <= 1
    assert (drawn[mask[0] & ~inner] == PALETTE[2][::-1]).all()  # the outline
    assert (drawn[:, :70] == GRAY).all()
    assert (drawn[:20] == GRAY).all()
    assert (drawn[90:94, 79:82] == GRAY).all()  # in the box, outside of the mask


def test_small_masks_lie_on_large_ones():
    masks = torch.zeros(2, 120, 160, dtype=torch.bool)
    masks[0, 60:80, 60:80] = True
    masks[1, 20:110, 20:150] = True
    drawn = draw(detected([[60, 60, 80, 80], [20, 20, 150, 110]], [0, 1], masks=masks))
    assert np.abs(drawn[65:75, 65:75] - half(0)).max() <= 1
    assert np.abs(drawn[90:105, 90:140] - half(1)).max() <= 1


def test_the_lines_of_a_box_run_along_its_edges():
    drawn = draw(detected([[30.4, 50.6, 89.7, 99.6]], [1]))
    green = (drawn == PALETTE[1][::-1]).all(2)
    for x in (30, 90):
        assert green[51:101, x].all()
    assert green[51, 88:91].all()  # the label may cover the rest
    assert green[100, 30:91].all()
    assert (drawn[60:90, 40:80] == GRAY).all()
    assert (drawn[104:] == GRAY).all()


def test_a_rotated_box():
    """A box of 60 x 20, turned by 90 degrees, is one of 20 x 60."""
    drawn = draw(detected([[80, 70, 60, 20, np.pi / 2]], [0]))
    red = (drawn == PALETTE[0][::-1]).all(2)
    assert red[45:95, 70].all()
    assert red[45:95, 90].all()
    assert (drawn[50:90, 75:86] == GRAY).all()
    assert (drawn[:, :65] == GRAY).all()


def test_boxes_below_the_threshold_are_left_out(labels_at):
    boxes = [[10, 50, 40, 80], [60, 50, 90, 80], [110, 50, 140, 80]]
    scores = torch.tensor([0.95, 0.5, 0.49])
    drawn = draw(detected(boxes, [0, 1, 2], scores=scores), score_thr=0.5)
    assert [text for text, _ in labels_at] == ['cat 0.95', 'dog 0.50']
    assert (drawn[52:, 120:] == GRAY).all()  # below the labels


def test_masks_without_boxes_get_the_boxes_of_the_masks():
    """SOLO predicts zeros for boxes."""
    masks = torch.zeros(1, 120, 160, dtype=torch.bool)
    masks[0, 50:100, 30:90] = True
    drawn = draw(detected([[0, 0, 0, 0]], [1], masks=masks))
    boxed = draw(detected([[30, 50, 89, 99]], [1], masks=masks))
    assert np.array_equal(drawn, boxed)


@pytest.mark.parametrize('count', [10, 100])
def test_labels_do_not_cover_each_other(count, labels_at):
    rng = np.random.default_rng(count)
    corners = rng.uniform([0, 0], [600, 440], (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(10, 200, (count, 2))])
    scores = torch.linspace(0.99, 0.31, count)[torch.from_numpy(rng.permutation(count))]
    draw(detected(boxes, rng.integers(0, 3, count), scores=scores), gray(480, 640))
    assert labels_at[0][0].endswith('0.99')
    assert len(labels_at) > (9 if count == 10 else 50)
    for (_, a), (_, b) in combinations(labels_at, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    # Each label touches the box of its object.
    for text, (x1, y1, x2, y2) in labels_at:
        (i,) = np.nonzero([f'{score:.2f}' == text[-4:] for score in scores.tolist()])[0][:1]
        box = boxes[i].clip(0, [639, 479, 639, 479])
        if count == 10:
            assert x1 <= box[2] + 2
            assert box[0] <= x2 + 2
            assert y1 <= box[3] + 2
            assert box[1] <= y2 + 2


def test_a_label_takes_the_first_free_place():
    starts = np.array([[[0, 0], [50, 0]], [[5, 5], [50, 0]], [[5, 5], [45, 5]], [[10, 0], [0, 0]]])
    sizes = np.full((4, 1, 2), 10)
    assert [(i, start.tolist()) for i, start in first_free(starts, sizes)] == [
        (0, [0, 0]),
        (1, [50, 0]),
        (3, [10, 0]),
    ]


def test_a_label_map_takes_the_palette(labels_at):
    labels = np.zeros((120, 160), np.int64)
    labels[:, 80:] = 2
    labels[100:] = 255  # ignored
    drawn = draw(segmented(labels))
    assert np.abs(drawn[2:20, :80] - half(0)).max() <= 1
    assert np.abs(drawn[2:20, 80:] - half(2)).max() <= 1
    assert (drawn[100:] == GRAY).all()
    assert [text for text, _ in labels_at] == ['cat', 'bird']
    for text, (x1, y1, x2, y2) in labels_at:  # each name lies in its region
        assert (labels[y1 : y2 + 1, x1 : x2 + 1] == CLASSES.index(text)).all()


def test_the_best_classes_are_listed_best_first(labels_at):
    drawn = draw(classified([0.1, 0.6, 0.3]), gray(300, 400))
    assert [text for text, _ in labels_at] == ['dog 0.60', 'bird 0.30', 'cat 0.10']
    tops = [box[1] for _, box in labels_at]
    assert tops == sorted(tops)
    assert {box[0] for _, box in labels_at} == {0}
    assert (drawn[150:] == GRAY).all()


def test_ground_truth_lies_on_the_left(tmp_path):
    sample = detected([[20, 60, 60, 100]], [0])
    annotator = Annotator(CLASSES, PALETTE)
    annotator.write_comparison(str(tmp_path / 'new/alone.png'), gray(), sample)
    assert cv2.imread(str(tmp_path / 'new/alone.png')).shape == (120, 160, 3)
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[90.0, 60, 140, 100]]), labels=torch.tensor([1])
    )
    annotator.write_comparison(str(tmp_path / 'both.png'), gray(), sample)
    both = cv2.imread(str(tmp_path / 'both.png'))
    assert both.shape == (120, 320, 3)
    assert (both[80, 90] == PALETTE[1][::-1]).all()
    assert (both[:, :80] == GRAY).all()
    assert (both[80, 180] == PALETTE[0][::-1]).all()


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (300, 1), (5, 7), (20, 4000), (3000, 4000)])
def test_pictures_of_any_size(size):
    height, width = size
    masks = torch.ones(2, *size, dtype=torch.bool)
    boxes = [[0, 0, width, height], [width / 4, height / 4, width / 2, height / 2]]
    for sample in (
        detected(boxes, [0, 1], masks=masks),
        detected(boxes, [0, 1]),
        segmented(np.zeros(size, np.int64)),
        classified([0.1, 0.6, 0.3]),
    ):
        drawn = draw(sample, gray(*size))
        assert (drawn != GRAY).any()


def test_lines_and_letters_grow_with_the_picture(labels_at):
    widths = []
    for factor in (1, 8):
        box = [[100 * factor, 200 * factor, 300 * factor, 400 * factor]]
        drawn = draw(detected(box, [1]), gray(480 * factor, 640 * factor))
        line = (drawn[300 * factor, : 200 * factor] == PALETTE[1][::-1]).all(1)
        widths.append(line.sum())
    assert widths[1] / widths[0] == pytest.approx(8, rel=0.3)
    small, large = (box[3] - box[1] for _, box in labels_at)
    assert large / small == pytest.approx(8, rel=0.2)


@pytest.mark.parametrize(
    'sample',
    [
        detected(np.zeros((0, 4)), []),
        detected(np.zeros((0, 5)), []),
        detected(np.zeros((0, 4)), [], masks=torch.zeros(0, 120, 160, dtype=torch.bool)),
        segmented(np.full((120, 160), 255)),
    ],
)
def test_without_objects_a_picture_stays_as_it_is(sample):
    assert (draw(sample) == GRAY).all()


def test_panoptic_segmentations_show_their_classes(labels_at):
    ids = np.zeros((1, 120, 160), np.int64)
    ids[..., 50:100], ids[..., 100:] = 1001, 2001  # two dogs
    sample = BaseDataElement()
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(ids))
    drawn = draw(sample)
    assert np.abs(drawn[2:10, 50:] - half(1)).max() <= 1
    assert {text for text, _ in labels_at} == {'cat', 'dog'}


def test_other_predictions_are_left_to_the_library():
    sample = BaseDataElement()
    sample.pred_depth_map = PixelData(data=torch.zeros(1, 120, 160))
    with pytest.raises(UserError, match=r'pred_depth_map.*--draw library'):
        draw(sample)


@pytest.mark.parametrize('palette', [None, [], 'coco', PALETTE])
def test_classes_beyond_the_palette_and_the_names(palette, labels_at):
    boxes = [[10, 50, 40, 80], [60, 50, 90, 80], [110, 50, 140, 80]]
    drawn = draw(detected(boxes, [0, 3, 200]), palette=palette)
    assert [text for text, _ in labels_at] == ['cat 0.90', '3 0.90', '200 0.90']
    colors = [drawn[65, x].tolist() for x in (10, 60, 110)]
    assert GRAY not in np.ravel(colors)
    if palette is PALETTE:
        assert colors == [list(PALETTE[i % 3][::-1]) for i in (0, 3, 200)]
    else:
        assert colors[0] != colors[1]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e30])
def test_boxes_of_no_finite_size(value):
    masks = torch.zeros(2, 120, 160, dtype=torch.bool)
    masks[1, 50:80, 50:80] = True
    boxes = [[value] * 4, [50, 50, 80, 80]]
    draw(detected(boxes, [0, 1], masks=masks))
    draw(detected([[value] * 5, [80, 70, 60, 20, 1]], [0, 1]))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('channels', [None, 1, 4])
def test_pictures_of_other_images(dtype, channels):
    shape = (120, 160) if channels is None else (120, 160, channels)
    image = np.arange(np.prod(shape)).reshape(shape) % 200
    picture = as_picture(image.astype(dtype))
    drawn = draw(detected([[30, 50, 90, 100]], [1]), picture)
    assert (drawn[75, 30] == PALETTE[1][::-1]).all()
    assert np.array_equal(drawn[:, 110:], picture[:, 110:])


def test_letters_stand_out_from_their_background(labels_at):
    for color, letters in (((255, 255, 0), 0), ((0, 0, 120), 255)):
        drawn = draw(detected([[20, 60, 100, 100]], [0]), palette=[color])
        (x1, y1, x2, y2) = labels_at.pop()[1]
        label = drawn[y1 : y2 + 1, x1 : x2 + 1].reshape(-1, 3).astype(int)
        assert (np.abs(label - letters).max(1) < 60).any()


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_visualizers_of_the_libraries(scope):
    """They draw in BGR, and two annotators keep their own classes."""
    init_default_scope(scope)
    sample = dict(
        mmdet=detected([[30, 50, 90, 100]], [1]),
        mmseg=segmented(np.ones((120, 160), np.int64)),
        mmpretrain=classified([0.1, 0.6, 0.3]),
    )[scope]
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        sample = DataSample().set_pred_score(sample.pred_score)
    drawn = []
    for classes in (CLASSES, ('a', 'b', 'c')):
        metainfo = dict(classes=classes, palette=PALETTE)
        annotator = make_annotator(Config(dict(default_scope=scope)), metainfo, 0.3, 'library')
        drawn.append(annotator)
    first, second = (annotator.prediction(gray(), sample).astype(int) for annotator in drawn)
    assert first.shape == (120, 160, 3)
    assert not np.array_equal(first, second)
    if scope != 'mmpretrain':
        assert (first[90, 30:90].mean(0) - GRAY)[1] > 5 + (first[90, 30:90].mean(0) - GRAY)[
            [0, 2]
        ].max()
