"""mmcv's operators on CUDA: results equal to the CPU's, synchronization only in listed places.

The device is simulated; a GPU is tested as well if there is one.
"""

import importlib
from contextlib import contextmanager

import mmcv.ops
import pytest
import torch
from pretended_cuda import PretendedCUDA, try_it

from mmvanilla.mmcv_ops import ext

pytestmark = pytest.mark.skipif(
    importlib.import_module('mmcv._ext') is not ext, reason='mmcv is compiled'
)
ROIS = torch.tensor(
    [[0, 3.0, 5.0, 31.0, 42.0], [1, -9.0, -3.0, 18.0, 60.0], [1, 20.0, 9.0, 26.0, 12.0]]
)


def boxes():
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 60, 2, generator=generator) * 30
    return torch.cat([corner, corner + size + 1], 1), torch.rand(60, generator=generator)


def batched_nms(boxes, scores, labels):
    return mmcv.ops.batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5))


def roi_align(x, rois):
    return mmcv.ops.roi_align(x, rois, 3, 0.25, 0, 'avg', True)


def focal_loss(logits, target):
    return mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'sum')


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(20) % 5
CONVOLVED = random(2, 4, 5, 4), random(2, 36, 3, 2), random(6, 2, 3, 3)
MODULATED = *CONVOLVED[:2], random(2, 18, 3, 2).sigmoid(), CONVOLVED[2], random(6)
# Operator, arguments, and the functions where the host waits; docs/gpu.md lists them.
CASES = {
    'roi_align': (roi_align, (random(2, 4, 12, 16), ROIS), set()),
    'nms': (lambda boxes, scores: mmcv.ops.nms(boxes, scores, 0.5), boxes(), {'nms'}),
    'batched_nms': (batched_nms, (*boxes(), torch.arange(60) % 3), {'nms'}),
    'soft_nms': (mmcv.ops.soft_nms, boxes(), {'softnms'}),  # mmcv brings the boxes to the CPU
    'sigmoid_focal_loss': (focal_loss, (random(20, 5), LABELS), set()),
    'deform_conv2d': (
        lambda x, offset, weight: mmcv.ops.deform_conv2d(x, offset, weight, 2, 1, 1, 2, 2),
        CONVOLVED,
        set(),
    ),
    'modulated_deform_conv2d': (
        lambda *tensors: mmcv.ops.modulated_deform_conv2d(*tensors, 2, 1, 1, 2, 2),
        MODULATED,
        set(),
    ),
}
WITHOUT_GRADIENT = ('nms', 'batched_nms', 'soft_nms')


@contextmanager
def real(waits):
    """Let PyTorch refuse synchronization unless some is expected."""
    torch.cuda.set_sync_debug_mode('default' if waits else 'error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.fixture(
    params=[
        'pretended',
        pytest.param(
            'real', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
        ),
    ]
)
def watch(request, needs):
    """Provide CUDA; yield a context that checks where the host waits."""
    if request.param == 'real':
        yield real
        return
    needs(try_it)
    with PretendedCUDA() as cuda:

        @contextmanager
        def pretended(waits):
            cuda.events.clear()
            yield
            events = [event for event in cuda.ours if event.kind != 'upcast']
            assert {event.function for event in events} == waits, '\n'.join(map(str, events))

        yield pretended


def call(name, tensors):
    """Return the outputs of an operator and the gradients of its float tensors."""
    operator = CASES[name][0]
    if name in WITHOUT_GRADIENT:
        return [*operator(*tensors)]
    leaves = [x.detach().requires_grad_() for x in tensors if x.is_floating_point()]
    if name.startswith('roi'):  # boxes have none
        leaves = leaves[:1]
    given = [leaves[i] if i < len(leaves) else x for i, x in enumerate(tensors)]
    out = operator(*given)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.mark.parametrize('name', CASES)
def test_an_operator_is_that_of_the_cpu(name, watch):
    _, tensors, waits = CASES[name]
    expected = call(name, tensors)
    there = [x.to('cuda') for x in tensors]
    with watch(waits):
        results = call(name, there)
    assert all(x.is_cuda for x in results)
    results = [x.cpu() for x in results]
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # as PyTorch asks for
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures('deterministic', 'watch')
@pytest.mark.parametrize('autocast', [False, True])
def test_roi_align_is_deterministic_if_that_is_asked_for(autocast):
    """Two runs are equal to the last bit; atomic additions would differ on a GPU."""
    features, rois = random(2, 64, 12, 16), ROIS.repeat(50, 1)

    def grad(features, rois):
        leaf = features.detach().requires_grad_()
        with torch.autocast(leaf.device.type, torch.bfloat16, enabled=autocast):
            return torch.autograd.grad(roi_align(leaf, rois).square().sum(), leaf)[0]

    expected = grad(features, rois)
    first, second = (grad(features.to('cuda'), rois.to('cuda')).cpu() for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures('deterministic', 'watch')
@pytest.mark.parametrize('name', ['deform_conv2d', 'modulated_deform_conv2d'])
def test_deformable_convolution_says_that_it_is_not(name):
    tensors = [x.to('cuda') for x in CASES[name][1]]
    with pytest.raises(RuntimeError, match=r'deformable convolution .* deterministic'):
        call(name, tensors)
    call(name, CASES[name][1])  # deterministic on the CPU
