from threading import Thread

import pytest
import torch
from mmcv.ops import roi_align

from mmvanilla.mmcv_ops import roi_align as implementation
from mmvanilla.mmcv_ops.separable_roi_align import _one_thread

ROIS = torch.tensor(
    [[0, 3.0, 5.0, 31.0, 42.0], [1, -9.0, -3.0, 18.0, 60.0], [1, 20.0, 9.0, 26.0, 12.0]]
)


@pytest.fixture(params=[0, float('inf')], ids=['products', 'kernel'])
def way(request, monkeypatch):
    monkeypatch.setattr(implementation, '_MIN_SAMPLES', request.param)


@pytest.mark.usefixtures('way')
@pytest.mark.parametrize('ratio', [0, 2])
def test_gradient(ratio, device):
    torch.manual_seed(0)
    features = torch.rand(2, 2, 9, 8, dtype=torch.double, device=device, requires_grad=True)
    rois = ROIS.to(features)

    def pool(features):
        return roi_align(features, rois, (2, 3), 0.2, ratio, 'avg', True)

    assert torch.autograd.gradcheck(
        pool, features, nondet_tol=1e-10 if device.type == 'cuda' else 0.0
    )


@pytest.mark.usefixtures('way')
def test_a_linear_map_gives_the_centres_of_bins(device):
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing='ij')
    features = torch.stack([y, x])[None].to(device)
    rois = torch.tensor([[0, 4.5, 2.5, 32.5, 23.5]], device=device)
    out = roi_align(features, rois, (3, 4), 1.0, 0, 'avg', True)[0].cpu()
    torch.testing.assert_close(out[0], torch.tensor([5.5, 12.5, 19.5])[:, None].expand(3, 4))
    torch.testing.assert_close(out[1], torch.tensor([7.5, 14.5, 21.5, 28.5]).expand(3, 4))


@pytest.mark.usefixtures('way')
def test_layout_does_not_matter(device):
    torch.manual_seed(0)
    contiguous = torch.rand(2, 8, 12, 16, device=device)
    layouts = (
        contiguous.contiguous(memory_format=torch.channels_last),
        contiguous.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([contiguous, contiguous], dim=1)[:, :8],
    )
    results = []
    for features in (contiguous, *layouts):
        leaf = features.detach().requires_grad_()
        out = roi_align(leaf, ROIS.to(device), (3, 2), 0.25, 0, 'avg', True)
        weights = torch.arange(out.numel(), device=device).reshape(out.shape) / out.numel()
        # A gradient that is not contiguous either.
        (grad,) = torch.autograd.grad(out.transpose(2, 3), leaf, weights.transpose(2, 3))
        results.append((out.detach(), grad))
    for out, grad in results[1:]:
        torch.testing.assert_close(out, results[0][0])
        torch.testing.assert_close(grad, results[0][1])


@pytest.mark.usefixtures('way')
def test_many_overlapping_boxes(device):
    """Boxes that together exceed the map, which are pooled from a copy of it."""
    torch.manual_seed(0)
    features = torch.rand(2, 3, 10, 12, device=device, requires_grad=True)
    corner = torch.rand(40, 2, device=device) * 10
    size = torch.rand(40, 2, device=device) * 35
    image = torch.arange(40.0, device=device)[:, None] % 2
    rois = torch.cat([image, corner, corner + size], dim=1)

    def run(rois):
        out = roi_align(features, rois, 3, 0.25, 0, 'avg', True)
        return out, torch.autograd.grad(out.square().sum(), features)[0]

    together, grad = run(rois)
    apart = [run(roi[None]) for roi in rois]
    torch.testing.assert_close(together, torch.cat([out for out, _ in apart]))
    torch.testing.assert_close(grad, sum(grad for _, grad in apart), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures('way')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype, device, needs):
    needs(torch.autocast(device.type, dtype)(int))
    torch.manual_seed(0)
    features = torch.rand(2, 4, 12, 16, device=device).to(dtype)
    rois = torch.tensor([[0, 3.0, 5.0, 31.0, 42.0], [1, 0.0, 2.0, 18.0, 60.0]], device=device)
    results = []
    for typed in (features, features.float()):
        leaf = typed.detach().requires_grad_()
        with torch.autocast(device.type, dtype, enabled=typed is features):
            out = roi_align(leaf, rois.to(typed), 7, 0.25, 0, 'avg', True)
            out.float().sum().backward()
        results.append((out.detach(), leaf.grad))
    assert results[0][0].dtype == results[0][1].dtype == dtype
    torch.testing.assert_close(results[0][0], results[1][0].to(dtype))
    torch.testing.assert_close(results[0][1], results[1][1].to(dtype))


@pytest.mark.usefixtures('way')
def test_autocast_does_not_lower_float32(device):
    torch.manual_seed(0)
    features = torch.rand(2, 4, 12, 16, device=device, requires_grad=True)
    results = []
    for enabled in (False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            out = roi_align(features, ROIS.to(device), 7, 0.25, 0, 'avg', True)
            results.append((out, *torch.autograd.grad(out.sum(), features)))
    torch.testing.assert_close(results[1], results[0])


def test_no_boxes(device):
    features = torch.rand(2, 4, 6, 6, device=device, requires_grad=True)
    out = roi_align(features, features.new_zeros(0, 5), 7, 0.25, 0, 'avg', True)
    assert out.shape == (0, 4, 7, 7)
    out.sum().backward()
    assert not features.grad.any()


def test_a_box_without_area(device):
    features = torch.rand(1, 2, 6, 6, device=device, requires_grad=True)
    point = torch.tensor([[0, 8.0, 8.0, 8.0, 8.0]], device=device)
    out = roi_align(features, point, 2, 0.25, 0, 'avg', True)
    assert not out.any()
    out.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize('roi', [[0, 9.0, 2.0, 5.0, 6.0], [0, float('nan'), 2.0, 5.0, 6.0]])
def test_an_inverted_box_is_refused_on_the_cpu(roi):
    with pytest.raises(ValueError, match='x2 < x1'):
        roi_align(torch.rand(1, 1, 8, 8), torch.tensor([roi]), 7)


def test_threads_are_given_back(monkeypatch):
    monkeypatch.setattr(implementation, '_MIN_SAMPLES', 0)
    torch.set_num_threads(3)
    roi_align(torch.rand(2, 4, 12, 16), ROIS, 7, 0.25, 0, 'avg', True)
    assert torch.get_num_threads() == 3


def test_a_thread_that_starts_meanwhile_has_all_its_threads():
    torch.set_num_threads(3)
    found = []
    with _one_thread():
        assert torch.get_num_threads() == 1
        thread = Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert found == [3]
