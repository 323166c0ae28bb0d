"""Whoever exports a model is told of every box that it loses, and of nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmvanilla.deploy.export import Limits, compare

LIMITS = Limits(score_thr=0.05, iou_threshold=0.5, max_per_img=100)


def detections(number=100, lowest=0.1, seed=0):
    """Boxes that do not overlap, of three classes, with masks."""
    rng = np.random.default_rng(seed)
    corner = np.stack([np.arange(number) % 10, np.arange(number) // 10], 1) * 50.0
    return dict(
        boxes=np.concatenate([corner, corner + rng.uniform(20, 40, (number, 2))], 1).astype('f4'),
        scores=np.linspace(0.9, lowest, number, dtype='f4'),
        labels=np.arange(number) % 3,
        masks=rng.random((number, 6, 6)) > 0.5,
    )


def rows(outputs, index):
    return {name: value[index] for name, value in outputs.items()}


def append(outputs, **row):
    added = {name: np.asarray([row[name]], dtype=v.dtype) for name, v in outputs.items()}
    return {name: np.concatenate([v, added[name]]) for name, v in outputs.items()}


@pytest.mark.parametrize('number', [100, 60])
def test_a_list_cut_short_anywhere_is_refused(number):
    expected = detections(number)
    for kept in range(number):
        cut = rows(expected, slice(kept))
        assert not compare(cut, expected, LIMITS).agrees
        assert not compare(expected, cut, LIMITS).agrees  # more than PyTorch finds


def test_a_list_cut_short_is_refused_whatever_its_limits():
    expected = detections(100)
    assert not any(compare(rows(expected, slice(kept)), expected).agrees for kept in range(100))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 40), st.booleans())
def test_any_order_agrees_and_any_lack_does_not(data, number, duplicates):
    expected = detections(number)
    if duplicates:  # the same place and label with other scores, and twice the same
        half = rows(expected, slice(None, None, 2))
        expected = {n: np.concatenate([v, half[n], half[n]]) for n, v in expected.items()}
        expected['scores'][number:-1] -= 0.02
    order = data.draw(st.permutations(range(len(expected['boxes']))))
    found = rows(expected, list(order))
    assert compare(found, expected, LIMITS._replace(max_per_img=200)).agrees
    lost = data.draw(st.integers(0, len(order) - 1))
    rest = rows(found, np.arange(len(order)) != lost)
    assert not compare(rest, expected, LIMITS._replace(max_per_img=200)).agrees


def test_a_box_at_the_threshold_of_scores_may_lack_or_come():
    expected = detections(20)
    more = append(expected, boxes=[900, 900, 950, 950], scores=0.0505, labels=0, masks=np.eye(6))
    assert compare(expected, more, LIMITS).agrees
    assert compare(more, expected, LIMITS).agrees
    more['scores'][-1] = 0.01  # nothing reports what is below the threshold
    assert not compare(more, expected, LIMITS).agrees
    assert not compare(more, expected, LIMITS._replace(score_thr=0.3)).agrees


def test_the_last_box_of_a_full_list_may_be_another():
    full = detections(101, lowest=0.3)
    full['scores'][-2:] = 0.3
    one, other = rows(full, slice(100)), rows(full, [*range(99), 100])
    assert compare(one, other, LIMITS).agrees
    assert not compare(one, other, LIMITS._replace(max_per_img=200)).agrees  # it is not full
    assert not compare(full, one, LIMITS).agrees  # more than may be


def test_a_box_at_the_threshold_of_suppression_may_go_and_what_it_hid_may_come():
    expected = detections(20)
    better = expected['boxes'][3]
    width = better[2] - better[0]
    beside = better + np.float32([1, 0, 1, 0]) * (width / 3)  # an IoU of exactly 0.5
    row = dict(scores=0.5, labels=0, masks=np.eye(6))
    expected['labels'][3] = 0
    found = append(expected, boxes=beside, **row)
    assert compare(found, expected, LIMITS).agrees
    hidden = beside + np.float32([1, 0, 1, 0]) * (width / 10)
    instead = append(expected, boxes=hidden, **dict(row, scores=0.4))
    assert compare(instead, found, LIMITS).agrees
    for other in (dict(labels=1), dict(scores=0.9)):  # not what suppresses it
        found = append(expected, boxes=beside, **{**row, **other})
        assert not compare(found, expected, LIMITS).agrees
    assert not compare(append(expected, boxes=hidden, **row), expected, LIMITS).agrees
    found = append(expected, boxes=beside, **row)
    assert not compare(found, expected, LIMITS._replace(iou_threshold=0.6)).agrees


def spoiled(**values):
    def spoil(outputs):
        for name, (index, value) in values.items():
            outputs[name][index] = value
        return outputs

    return spoil


WRONG = {
    'empty': lambda o: rows(o, slice(0)),
    'twice each': lambda o: {n: np.concatenate([v, v]) for n, v in o.items()},
    'one twice': lambda o: {n: np.concatenate([v, v[:1]]) for n, v in o.items()},
    'labels from 1': lambda o: dict(o, labels=o['labels'] + 1),
    'labels of another type': lambda o: dict(o, labels=o['labels'].astype('f4') + 0.5),
    'a shifted box': spoiled(boxes=(4, np.float32([3, 3, 30, 30]))),
    'all shifted': lambda o: dict(o, boxes=o['boxes'] + 1),
    'x and y swapped': lambda o: dict(o, boxes=o['boxes'][:, [1, 0, 3, 2]]),
    'a score of nan': spoiled(scores=(7, np.nan)),
    'all scores nan': spoiled(scores=(slice(None), np.nan)),
    'a box of nan': spoiled(boxes=(-1, np.nan)),
    'an infinite box': spoiled(boxes=(2, np.inf)),
    'a score that differs': spoiled(scores=(5, 0.2)),
    'masks all empty': spoiled(masks=(slice(None), False)),
    'masks all full': spoiled(masks=(slice(None), True)),
    'masks not pasted': lambda o: dict(o, masks=o['masks'][:, :3]),
    'scores of another length': lambda o: dict(o, scores=o['scores'][:-1]),
    'no masks': lambda o: {n: v for n, v in o.items() if n != 'masks'},
}


@pytest.mark.parametrize('wrong', WRONG)
def test_what_is_wrong_is_refused(wrong):
    assert compare(detections(30), detections(30), LIMITS).agrees
    assert not compare(WRONG[wrong](detections(30)), detections(30), LIMITS).agrees


def test_a_model_that_gives_nan_in_pytorch_as_well_is_refused():
    broken = WRONG['a score of nan'](detections(30))
    assert not compare(broken, broken, LIMITS).agrees


def test_boxes_without_area_are_the_same_as_themselves():
    expected = detections(6)
    expected['boxes'][2:4, 2:] = expected['boxes'][2:4, :2]
    assert compare(rows(expected, slice(None, None, -1)), expected, LIMITS).agrees


def test_lists_without_boxes_agree_and_say_so():
    nothing = rows(detections(3), slice(0))
    result = compare(nothing, nothing, LIMITS)
    assert result.agrees
    assert 'no boxes' in result.text


@pytest.mark.parametrize('name', ['level0', 'level1', 'level2'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_nan_in_any_level_is_refused(name, value):
    expected = {f'level{i}': np.full((1, 2, 3, 3), 1 + i, dtype='f4') for i in range(3)}
    found = {key: array.copy() for key, array in expected.items()}
    assert compare(found, expected).agrees
    found[name][0, 0, 0, 0] = value
    assert not compare(found, expected).agrees
    assert not compare(found, found).agrees
