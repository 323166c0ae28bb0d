"""Series activation in other nets, as a registered layer."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_activation_layer
from torch import nn

from mmvanilla.errors import UserError
from mmvanilla.models import SeriesActivation, fuse


def series(x, weight, norm):
    """The formula of section 3.2, window by window."""
    n = weight.shape[-1] // 2
    padded = F.pad(x.relu(), (n, n, n, n))
    height, width = x.shape[-2:]
    return norm(
        sum(
            weight[:, 0, i, j].view(1, -1, 1, 1) * padded[:, :, i : i + height, j : j + width]
            for i in range(2 * n + 1)
            for j in range(2 * n + 1)
        )
    )


def test_conv_module_takes_it(trained):
    cfg = dict(type='SeriesActivation', channels=6, act_num=2)
    torch.manual_seed(0)
    layer = trained(ConvModule(3, 6, 3, norm_cfg=dict(type='BN'), act_cfg=cfg)).eval()
    nn.init.normal_(layer.activate.weight)
    x = torch.randn(2, 3, 9, 8)
    expected = series(layer.norm(layer.conv(x)), layer.activate.weight, layer.activate.bn)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    fuse(layer)
    assert isinstance(layer.activate.bn, nn.Identity)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def test_defaults():
    act = build_activation_layer(dict(type='SeriesActivation', channels=5))
    assert act.weight.shape == (5, 1, 7, 7)
    assert isinstance(act.bn, nn.BatchNorm2d)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'channels of SeriesActivation is None, expected an integer from 1'),
        (dict(channels=0), 'channels of SeriesActivation is 0'),
        (dict(channels=4, act_num=-1), 'act_num of SeriesActivation is -1'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        ConvModule(3, 4, 1, act_cfg=dict(type='SeriesActivation', **options))


def test_untrained_activation_is_not_fused():
    act = nn.Sequential(SeriesActivation(4))
    with pytest.raises(UserError, match='0.bn cannot be fused: it has never seen a batch'):
        fuse(act)
