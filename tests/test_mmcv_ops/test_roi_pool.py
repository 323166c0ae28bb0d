import math

import pytest
import torch
from mmcv.ops import roi_pool

ROIS = torch.tensor(
    [
        [0, 3.0, 5.0, 31.0, 42.0],
        [1, -9.0, -3.0, 18.0, 60.0],
        [1, 20.0, 9.0, 26.0, 12.0],
        [0, 200.0, 200.0, 220.0, 230.0],
        [0, 9.0, 9.0, 4.0, 20.0],
    ]
)


def pool_one_by_one(features, rois, bins, scale):
    """RoIPool by its definition: the largest of the cells that a bin touches."""
    out = features.new_zeros(len(rois), features.size(1), *bins)
    height, width = features.shape[2:]
    for n, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top, right, bottom = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        bin_h, bin_w = (bottom - top) / bins[0], (right - left) / bins[1]
        if bin_h <= 0 or bin_w <= 0:
            continue
        for i in range(bins[0]):
            for j in range(bins[1]):
                rows = slice(max(math.floor(top + i * bin_h), 0), math.ceil(top + (i + 1) * bin_h))
                columns = slice(
                    max(math.floor(left + j * bin_w), 0), math.ceil(left + (j + 1) * bin_w)
                )
                if rows.start < min(rows.stop, height) and columns.start < min(columns.stop, width):
                    out[n, :, i, j] = features[int(image), :, rows, columns].amax(dim=(1, 2))
    return out


@pytest.mark.parametrize('scale', [0.25, 1.0])
def test_equals_its_definition(scale, device):
    torch.manual_seed(0)
    features = torch.rand(2, 3, 11, 14, dtype=torch.double, requires_grad=True)
    rois = ROIS.double()
    expected = pool_one_by_one(features, rois, (3, 4), scale)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), features)
    for strided in (torch.contiguous_format, torch.channels_last):
        leaf = features.detach().to(device, memory_format=strided).requires_grad_()
        out = roi_pool(leaf, rois.to(device), (3, 4), scale)
        torch.testing.assert_close(out.cpu(), expected)
        (grad,) = torch.autograd.grad(out.square().sum(), leaf)
        torch.testing.assert_close(grad.cpu(), expected_grad)


def test_the_first_of_equal_cells_gets_the_gradient(device):
    features = torch.ones(1, 1, 4, 4, device=device, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 1.0, 2.0, 2.0]], device=device)
    roi_pool(features, rois, 1, 1.0).sum().backward()
    assert features.grad.nonzero().tolist() == [[0, 0, 1, 1]]


def test_gradient(device):
    torch.manual_seed(0)
    features = torch.rand(2, 2, 8, 9, dtype=torch.double, device=device, requires_grad=True)
    rois = ROIS.to(features)
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois, (2, 3), 0.2), features)


def test_half_precision(device):
    features = torch.rand(2, 3, 11, 14, device=device).bfloat16().requires_grad_()
    rois = ROIS[:3].to(features)
    out = roi_pool(features, rois, 3, 0.25)
    out.sum().backward()
    assert out.dtype == features.grad.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), roi_pool(features.float(), rois.float(), 3, 0.25))


def test_no_boxes(device):
    features = torch.rand(2, 3, 5, 5, device=device, requires_grad=True)
    out = roi_pool(features, features.new_zeros(0, 5), 7, 0.25)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert not features.grad.any()
