"""Rows with figures or a reason, and warnings about doubtful figures."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmvanilla.benchmark import (
    Measurement,
    ModelSpec,
    Row,
    Settings,
    measure,
    processes,
    run,
    tables,
)
from mmvanilla.benchmark.tables import markdown, plot_speed, speed_cells, to_json
from mmvanilla.benchmark.timing import Times

SETTINGS = dict(shape=(64, 64), warmup=0, repeat=4, part='backbone')


@pytest.fixture
def spec(small_config):
    def make(name='net', form='fused', kind='mask_rcnn', **options):
        return ModelSpec(name, small_config(kind, **options), form)

    return make


pytestmark = pytest.mark.usefixtures('forked')


def test_a_row_that_fails_leaves_the_others_alone(spec, monkeypatch):
    build = run.build

    def fail(spec, *options):
        if spec.name == 'broken':
            raise ModuleNotFoundError("No module named 'mmpretrain'", name='mmpretrain')
        return build(spec, *options)

    monkeypatch.setattr(run, 'build', fail)
    names = ('first', 'broken', 'last')
    rows = measure(map(spec, names), Settings(**SETTINGS)).rows
    assert [row.name for row in rows] == ['first', 'broken', 'last']
    assert rows[1].reason == 'needs the package mmpretrain'
    assert not rows[1].times
    assert rows[1].counts is rows[1].memory is None
    assert all(len(rows[i].times.values) == 4 for i in (0, 2))


def test_a_row_that_fails_late_keeps_no_figures(spec, monkeypatch):
    prepare = run.ModelUnderTest.prepare

    def fail(self, turn):
        if turn == 2:
            raise RuntimeError('no more')
        return prepare(self, turn)

    monkeypatch.setattr(run.ModelUnderTest, 'prepare', fail)
    (row,) = measure([spec()], Settings(**SETTINGS)).rows
    assert row.reason == 'RuntimeError: no more'
    assert not row.times
    assert row.counts is row.memory is None


def test_forms_side_by_side(spec):
    forms = ('train', 'fused', 'deploy')
    result = measure([spec(form=form) for form in forms], Settings(**SETTINGS))
    train, fused, deploy = result.rows
    assert [row.form for row in result.rows] == ['training form', 'fused', 'built in deploy form']
    assert fused.counts == deploy.counts
    assert train.counts.params > fused.counts.params
    assert train.counts.dense > fused.counts.dense
    assert train.counts.depthwise == fused.counts.depthwise > 0
    assert train.memory > fused.memory
    header, cells = speed_cells(result)
    assert all(len(line) == len(header) for line in cells)
    assert cells[0][header.index('time / first')] == '1.00 (1.00-1.00)'


def interrupt(monkeypatch, times):
    """Press ctrl-C after so many requests to workers."""
    ask, requests = processes.Worker.ask, []

    def stop(self, request):
        requests.append(request)
        if len(requests) > times:
            raise KeyboardInterrupt
        return ask(self, request)

    monkeypatch.setattr(processes.Worker, 'ask', stop)


def test_ctrl_c(spec, monkeypatch):
    interrupt(monkeypatch, 2 + 3)  # two are built, then one and a half rounds
    result = measure([spec('first'), spec('second')], Settings(**SETTINGS))
    assert not result.complete
    assert [len(row.times.values) for row in result.rows] == [1, 2]
    assert 'interrupted after 1 of 4 rounds' in result.warnings
    assert json.loads(to_json(result))['complete'] is False


def test_ctrl_c_while_building(spec, monkeypatch):
    interrupt(monkeypatch, 1)
    result = measure([spec('first'), spec('second')], Settings(**SETTINGS))
    assert not result.complete
    first, second = result.rows
    assert first.counts
    assert not first.times
    assert not second.times
    assert second.counts is None
    assert 'interrupted' in speed_cells(result)[1][0]


def test_ctrl_c_before_the_first_round_counts_no_boxes(spec, monkeypatch):
    interrupt(monkeypatch, 1)
    result = measure([spec()], Settings(**dict(SETTINGS, part='model')))
    assert result.rows[0].counts
    assert not any('boxes' in note for note in result.notes)


def test_differing_detections_are_doubtful(spec, monkeypatch):
    monkeypatch.setattr(run.ModelUnderTest, 'fixed', False, raising=False)
    settings = Settings(**dict(SETTINGS, part='model', repeat=1))
    few = spec('few', **{'test_cfg.rcnn.max_per_img': 7})
    result = measure([spec('many'), few], settings)
    assert [row.detections for row in result.rows] == [100, 7]
    assert any('found 7, 100 boxes' in warning for warning in result.warnings)
    same = measure([spec('many')], settings)
    assert any('ends with 100 boxes' in note for note in same.notes)
    assert not any('boxes' in warning for warning in same.warnings)


@pytest.mark.parametrize(
    ('halves', 'sentence'), [((10.0, 12.0), 'differ by 18% in median'), ((10.0, 10.0), None)]
)
def test_unsteady(halves, sentence, spec, monkeypatch):
    ticks = iter([halves[0]] * 2 + [halves[1]] * 2)
    monkeypatch.setattr(processes, 'time_call', lambda call, device: next(ticks))
    result = measure([spec()], Settings(**SETTINGS))
    assert bool(result.warnings) == bool(sentence)
    assert sentence is None or sentence in result.warnings[0]
    assert result.fps(result.rows[0]) == pytest.approx(1e3 / (sum(halves) / 2))


@pytest.mark.parametrize(('repeat', 'comparable'), [(3, False), (4, True)])
def test_halves_with_other_images_are_not_compared(repeat, comparable, spec, tmp_path, monkeypatch):
    for i in range(2):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.zeros((40, 40 + 40 * i, 3), dtype=np.uint8))
    ticks = iter([1.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr(processes, 'time_call', lambda call, device: next(ticks))
    settings = Settings(**dict(SETTINGS, images=str(tmp_path), repeat=repeat))
    result = measure([spec()], settings)
    assert any('differ by' in warning for warning in result.warnings) == comparable
    assert any('--repeat 4' in note for note in result.notes) == (not comparable)


def test_sizes_that_first_occur_in_a_timed_round(spec, monkeypatch):
    sizes = [(3, 64, 64), (3, 64, 96), (3, 96, 64)]
    monkeypatch.setattr(run.ModelUnderTest, 'sizes', lambda self: sizes)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    for warmup, number in ((0, 2), (1, 1), (2, 0)):
        result = measure([spec()], Settings(**dict(SETTINGS, warmup=warmup)))
        found = [text for text in result.warnings if 'cudnn picks algorithms' in text]
        assert len(found) == bool(number)
        assert not number or found[0].startswith(f'{number} image sizes')
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    result = measure([spec()], Settings(**SETTINGS))
    assert not any('cudnn' in text for text in result.warnings)


def test_files(spec, tmp_path):
    missing = Row('lost', 'fused', reason='needs the package mmdet')
    result = measure([spec('net'), missing], Settings(**SETTINGS))
    facts = json.loads(to_json(result, command=['fps.py']))
    net, lost = facts['rows']
    assert len(net['times_ms']) == 4
    assert sorted(net['times_ms'])[1] <= net['median_ms'] <= sorted(net['times_ms'])[2]
    assert net['fps'] == pytest.approx(1e3 / net['median_ms'])
    assert lost['reason'] == 'needs the package mmdet'
    assert lost['times_ms'] is None
    assert 'fps' not in lost
    assert facts['command'] == ['fps.py']
    table = markdown(*speed_cells(result)).splitlines()
    assert len({line.count('|') for line in table}) == 1
    assert 'needs the package mmdet' in table[3]


def test_bars_are_as_long_as_the_models_are_fast(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tables.plt, 'close', drawn.append)
    rows = [Row(name, 'fused', times=Times([ms] * 3)) for name, ms in (('a', 50.0), ('b', 200.0))]
    rows.insert(1, Row('lost', 'fused', reason='too little memory'))
    result = Measurement(rows, Settings(batch_size=2), dict(threads='1'), '2026-01-01')
    plot_speed(result, tmp_path / 'speed.png', published={'b': 30.0})
    axes, published = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ['a\nfused', 'b\nfused']
    assert [bar.get_width() for bar in axes.patches] == [40, 10]
    assert [bar.get_width() for bar in published.patches] == [30]
    assert cv2.imread(str(tmp_path / 'speed.png')).std() > 0


def test_padding_is_noted(spec):
    result = measure([spec()], Settings(**dict(SETTINGS, shape=(64, 65), repeat=1)))
    assert any('64 x 65 are padded to 64 x 96' in note for note in result.notes)


@pytest.mark.slow
def test_compiled(spec):
    settings = Settings(**dict(SETTINGS, compile=True, warmup=1, repeat=1))
    row = measure([spec()], settings).rows[0]
    assert row.reason is None
    assert row.times
