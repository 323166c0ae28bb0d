"""Counts against what was published and against sums written out."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmvanilla import ARCHS, VanillaNet
from mmvanilla.benchmark.counting import count
from projects.paper_tables.published import TABLE3


def count_on_meta(model, *size):
    return count(model, lambda: model(torch.empty(size, device='meta')))


@pytest.mark.parametrize('arch', ARCHS)
def test_table_3(arch):
    with torch.device('meta'):
        net = VanillaNet(arch, out_indices=(3,), deploy=True).eval()
        head = nn.Conv2d(net.out_channels[0], 1000, 1)
        pool = nn.AdaptiveAvgPool2d(1)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.pool, self.head = net, pool, head

        def forward(self, x):
            return self.head(self.pool(self.net(x)[0]))

    counts = count_on_meta(Classifier(), 1, 3, 224, 224)
    published = TABLE3[f'VanillaNet-{arch}']
    assert round(counts.params / 1e6, 3) == published.params
    assert round(counts.dense / 1e9, 3) == pytest.approx(published.dense, abs=0.001)
    assert round(counts.depthwise / 1e9, 3) == pytest.approx(published.depthwise, abs=0.001)


def test_dense_depthwise_and_matrix_products():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.grouped = nn.Conv2d(8, 8, 1, groups=2)
            self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8)
            self.linear = nn.Linear(8, 6)

        def forward(self, x):
            x = self.depthwise(self.grouped(self.conv(x)))
            x = self.linear(x.flatten(2).mT)
            return x @ x.mT

    counts = count(net := Net(), lambda: net(torch.rand(2, 3, 16, 12)))
    pixels = 2 * 8 * 6
    conv, grouped, linear = pixels * 8 * 27, pixels * 8 * 4, pixels * 8 * 6
    assert counts.depthwise == pixels * 8 * 25
    assert counts.dense == conv + grouped + linear + 2 * 48 * 48 * 6
    assert counts.multiply_adds == counts.dense + counts.depthwise
    assert counts.params == sum([8 * 27 + 8, 8 * 4 + 8, 8 * 25 + 8, 6 * 8 + 6])


def test_pooling_of_regions_does_not_count():
    class RoIExtractor(nn.Module):
        def forward(self, x):
            return x @ x

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.extractor, self.linear = RoIExtractor(), nn.Linear(16, 3)

        def forward(self, x):
            return self.linear(self.extractor(x))

    head, x = Head(), torch.rand(16, 16)
    assert count(head, lambda: head(x)).dense == 16 * 16 * 3


def test_segmentor_of_ade20k():
    from mmengine.config import Config

    cfg = Config.fromfile('configs/upernet_vanillanet13.py')
    init_default_scope('mmseg')
    cfg.model.backbone.update(deploy=True, init_cfg=None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
    x = torch.empty(1, 3, 512, 2048, device='meta')
    counts = count(model, lambda: model(x, mode='tensor'))
    assert counts.params / 1e6 == pytest.approx(115.2, abs=0.05)
    assert counts.multiply_adds / 1e9 == pytest.approx(1140.8, rel=0.005)
