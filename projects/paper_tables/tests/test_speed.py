"""Tables of speed: models, comparison of counts, cells and Figure 2."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvanilla import VanillaNet
from mmvanilla.benchmark import Measurement, ModelSpec, Row, Settings
from mmvanilla.benchmark.timing import Times
from projects.paper_tables import speed
from projects.paper_tables.counting import PaperCounts, count_both
from projects.paper_tables.published import TABLE3, TABLE4


def test_classifiers_have_the_published_size_in_both_forms():
    nets = {name: net for name, net in TABLE3.items() if net.params}
    assert len(nets) == 11
    for name, net in nets.items():
        sizes = []
        for deploy in (True, False):
            cfg = speed.classifier(name, deploy).cfg
            init_default_scope('mmpretrain')
            with torch.device('meta'):
                model = MODELS.build(cfg.model)
            assert model.head.deploy == model.backbone.deploy == deploy
            sizes.append(sum(p.numel() for p in model.parameters()))
            backbone = sum(p.numel() for p in model.backbone.parameters())
            # The training form has another layer of classes to classes and a batch norm.
            width = cfg.model.head.in_channels
            more = 0 if deploy else 1000 * 1000 + 1000 + 2 * 1000
            assert sizes[-1] - backbone == 1000 * width + 1000 + more
        assert sizes[0] / 1e6 == pytest.approx(net.params, abs=5.1e-4)


def measurement(rows):
    return Measurement(rows, Settings(), dict(threads='2'), '2026-01-01')


def test_the_convention_of_the_paper_leaves_out_series_activations():
    with torch.device('meta'):
        net = VanillaNet('5', (3,), deploy=True).eval()
    counts = count_both(net, lambda: net(torch.empty(1, 3, 224, 224, device='meta')))
    assert counts.published == pytest.approx(counts.dense, rel=0.005)
    assert counts.depthwise > 0.02 * counts.dense


def test_counts_that_differ_are_named():
    right = PaperCounts(
        params=77_150_960, dense=420_000_000_000, depthwise=0, published=420_700_000_000
    )
    wrong = PaperCounts(params=77_950_960, dense=0, depthwise=0, published=430_000_000_000)
    name = 'Mask R-CNN VanillaNet-13'
    rows = [Row(name, 'fused', counts=counts) for counts in (right, wrong)]
    assert speed.disagreements(measurement(rows[:1])) == []
    found = speed.disagreements(measurement(rows))
    assert found == [
        f'{name}: 77.95 M params, published 77.1',
        f'{name}: 430 G multiply-adds, published 420.7',
    ]


def test_table4_prints_the_reason_of_a_row():
    row = Row('RetinaNet Swin-T', 'fused', reason='too little memory')
    timed = Row('Mask R-CNN Swin-T', 'fused', times=Times([40.0, 50.0, 60.0]), detections=100)
    header, cells = speed.table4_cells(measurement([row, timed]))
    assert all(len(line) == len(header) for line in cells)
    assert cells[0][header.index('median ms')] == 'too little memory'
    assert cells[1][header.index('FPS here')] == '20.00'
    published = TABLE4['Mask R-CNN Swin-T']
    assert cells[1][header.index('A100 FPS')] == f'{published.fps}'


def test_figure2(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(speed.plt, 'close', drawn.append)
    speed.draw_figure2(tmp_path / 'figure2.png')
    assert (tmp_path / 'figure2.png').is_file()
    by_depth, by_latency = drawn[0].axes
    for axes, xs in ((by_depth, [18, 34, 50, 101]), (by_latency, [3.12, 5.57, 7.64, 15.35])):
        (line,) = [line for line in axes.lines if line.get_label() == 'ResNet']
        assert list(line.get_xdata()) == xs
        assert list(line.get_ydata()) == [69.90, 73.62, 76.55, 77.97]  # the paper's Figure 2
    names = {text.get_text() for text in by_depth.texts}
    assert {'5', '13-x1.5-ada', '18', 'T', 'N'} <= names


@pytest.mark.parametrize('table', ['DETECTORS', 'SEGMENTORS'])
def test_every_config_is_read(table):
    for name, file in getattr(speed, table).items():
        model = speed.read_config(name, file)
        assert isinstance(model, ModelSpec), model.reason
        assert isinstance(model.cfg, Config)
    assert speed.read_config('UPerNet VanillaNet-9', file).cfg.model.backbone.arch == '9'
    assert speed.read_config('UPerNet VanillaNet-13', file).cfg.model.backbone.arch == '13'


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
