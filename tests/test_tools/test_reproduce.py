"""tools/reproduce.py: its tables, how its counts compare, and its pictures."""

import importlib.util
import json
import multiprocessing.dummy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla.benchmark import Candidate, Measurement, Row, Settings, processes
from mmvanilla.benchmark.counting import Counts
from mmvanilla.benchmark.published import TABLE3, TABLE4
from mmvanilla.benchmark.timing import Times

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    """Import the tool as a module."""
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location('reproduce', ROOT / 'tools/reproduce.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *map(str, arguments)])
    tool.main()


def test_table3(tool, monkeypatch, tmp_path, capsys):
    names = ('VanillaNet-5', 'ResNet-18', 'ConvNeXtV2-N')
    monkeypatch.setattr(processes, 'SPAWN', multiprocessing.dummy)  # starts within no time
    few = ['--only', *names, '--repeat', 2, '--warmup', 0]
    run(tool, monkeypatch, 'table3', *few, '--out', tmp_path)
    assert 'Parameters and multiply-adds are those published' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'table3.json').read_text())['rows']
    params = [row['counts']['params'] for row in rows]
    # torchvision's documentation gives 11,689,512 for ResNet-18 with its batch norms, which have
    # 2 x 4,800 parameters and become 4,800 biases.
    assert params[:2] == [15_523_304, 11_689_512 - 4_800]
    assert params[2] / 1e6 == pytest.approx(15.62, abs=0.01)
    text = (tmp_path / 'table3.md').read_text()
    assert all(f'| {name} |' in text for name in names)
    assert (tmp_path / 'table3.png').is_file()


@pytest.mark.parametrize(
    ('what', 'said'), [('table3', 'some of VanillaNet-5'), ('table1', 'for the tables of speed')]
)
def test_rows_that_there_are_not(what, said, tool, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tool, monkeypatch, what, '--only', 'ResNet-19', '--out', tmp_path)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_classifiers_have_the_published_size_in_both_forms(tool):
    nets = {name: net for name, net in TABLE3.items() if net.params}
    assert len(nets) == 11
    for name, net in nets.items():
        sizes = []
        for deploy in (True, False):
            cfg = tool.classifier(name, deploy).cfg
            init_default_scope('mmpretrain')
            with torch.device('meta'):
                model = MODELS.build(cfg.model)
            assert model.head.deploy == model.backbone.deploy == deploy
            sizes.append(sum(p.numel() for p in model.parameters()))
            backbone = sum(p.numel() for p in model.backbone.parameters())
            # Training form: another layer from classes to classes, and a norm of the first.
            width = cfg.model.head.in_channels
            more = 0 if deploy else 1000 * 1000 + 1000 + 2 * 1000
            assert sizes[-1] - backbone == 1000 * width + 1000 + more
        assert sizes[0] / 1e6 == pytest.approx(net.params, abs=5.1e-4)


def measurement(rows):
    return Measurement(rows, Settings(), dict(threads='2'), '2026-01-01')


def test_counts_that_differ_are_named(tool):
    right = Counts(params=77_150_960, dense=420_000_000_000, depthwise=0, published=420_700_000_000)
    wrong = Counts(params=77_950_960, dense=0, depthwise=0, published=430_000_000_000)
    name = 'Mask R-CNN VanillaNet-13'
    rows = [Row(name, 'fused', counts=counts) for counts in (right, wrong)]
    assert tool.disagreements(measurement(rows[:1])) == []
    found = tool.disagreements(measurement(rows))
    assert found == [
        f'{name}: 77.95 M params, published 77.1',
        f'{name}: 430 G multiply-adds, published 420.7',
    ]


def test_table4_prints_the_reason_of_a_row(tool):
    row = Row('RetinaNet Swin-T', 'fused', reason='too little memory')
    timed = Row('Mask R-CNN Swin-T', 'fused', times=Times([40.0, 50.0, 60.0]), detections=100)
    header, cells = tool.table4_cells(measurement([row, timed]))
    assert all(len(line) == len(header) for line in cells)
    assert cells[0][header.index('median ms')] == 'too little memory'
    assert cells[1][header.index('FPS here')] == '20.00'
    published = TABLE4['Mask R-CNN Swin-T']
    assert cells[1][header.index('A100 FPS')] == f'{published.fps}'


def test_figure2(tool, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(tool.plt, 'close', drawn.append)
    run(tool, monkeypatch, 'figure2', '--published', '--out', tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ['figure2_published.png']
    by_depth, by_latency = drawn[0].axes
    for axes, xs in ((by_depth, [18, 34, 50, 101]), (by_latency, [3.12, 5.57, 7.64, 15.35])):
        (line,) = [line for line in axes.lines if line.get_label() == 'ResNet']
        assert list(line.get_xdata()) == xs
        assert list(line.get_ydata()) == [69.90, 73.62, 76.55, 77.97]  # the paper's Figure 2
    names = {text.get_text() for text in by_depth.texts}
    assert {'5', '13-x1.5-ada', '18', 'T', 'N'} <= names


@pytest.mark.parametrize('table', ['DETECTORS', 'SEGMENTORS'])
def test_every_config_is_read(tool, table):
    for name, file in getattr(tool, table).items():
        candidate = tool.read_config(name, file)
        assert isinstance(candidate, Candidate), candidate.reason
        assert isinstance(candidate.cfg, Config)
    assert tool.read_config('UPerNet VanillaNet-9', file).cfg.model.backbone.arch == '9'
    assert tool.read_config('UPerNet VanillaNet-13', file).cfg.model.backbone.arch == '13'


def test_peers_accuracies_are_those_of_mmpretrain():
    import mmpretrain
    import yaml

    folder = Path(mmpretrain.__file__).parent / '.mim/configs'
    models = {
        'ResNet-18': ('resnet', 'resnet18_8xb32_in1k'),
        'ResNet-34': ('resnet', 'resnet34_8xb32_in1k'),
        'ResNet-50': ('resnet', 'resnet50_8xb32_in1k'),
        'ResNet-101': ('resnet', 'resnet101_8xb32_in1k'),
        'Swin-T': ('swin_transformer', 'swin-tiny_16xb64_in1k'),
        'Swin-S': ('swin_transformer', 'swin-small_16xb64_in1k'),
        'ConvNeXtV2-N': ('convnext_v2', 'convnext-v2-nano_fcmae-pre_3rdparty_in1k'),
    }
    for name, (family, model) in models.items():
        entries = yaml.safe_load((folder / family / 'metafile.yml').read_text())['Models']
        (entry,) = [entry for entry in entries if entry['Name'] == model]
        assert TABLE3[name].top1 == entry['Results'][0]['Metrics']['Top 1 Accuracy']


@pytest.mark.slow
def test_table4_counts(tool, monkeypatch, tmp_path, capsys):
    run(tool, monkeypatch, 'table4', '--repeat', 1, '--warmup', 0, '--out', tmp_path)
    assert 'Parameters and multiply-adds are those published' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'table4.json').read_text())['rows']
    # With act_num=4 and everything counted, as mmengine's counter has it.
    total = {row['name']: row['counts']['dense'] + row['counts']['depthwise'] for row in rows}
    for name, expected in (
        ('Mask R-CNN VanillaNet-13', 432.2),
        ('RetinaNet VanillaNet-13', 408.4),
        ('Mask R-CNN Swin-T', 267.0),
        ('RetinaNet Swin-T', 248.0),
    ):
        assert total[name] / 1e9 == pytest.approx(expected, rel=0.005)
    assert [row['detections'] for row in rows] == [100] * 5
