import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import sigmoid_focal_loss

GAMMA, ALPHA = 2.0, 0.25


def sigmoid_reference(logits, target, weight=None):
    """The published formula: cross-entropy times alpha_t (1 - p_t)^gamma."""
    one_hot = F.one_hot(target, logits.size(1) + 1)[:, :-1].to(logits)
    p = logits.sigmoid()
    wrong = (1 - p) * one_hot + p * (1 - one_hot)
    factor = (ALPHA * one_hot + (1 - ALPHA) * (1 - one_hot)) * wrong**GAMMA
    loss = F.binary_cross_entropy_with_logits(logits, one_hot, reduction='none') * factor
    return loss if weight is None else loss * weight[target][:, None]


def loss_and_grad(loss, *leaves):
    return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_sigmoid_equals_the_formula(dtype, weighted, device):
    torch.manual_seed(0)
    logits = torch.randn(20, 5, dtype=dtype, device=device).requires_grad_()
    # Label 5 is background, which has no class weight.
    target = torch.randint(0, 5 if weighted else 6, (20,), device=device)
    weight = torch.rand(5, dtype=dtype, device=device) if weighted else None
    ours = loss_and_grad(sigmoid_focal_loss(logits, target, GAMMA, ALPHA, weight, 'none'), logits)
    theirs = loss_and_grad(sigmoid_reference(logits, target, weight), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradient(device):
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.double, device=device, requires_grad=True)
    target = torch.tensor([0, 3, 1, 2, 0, 0], device=device)
    for gamma in (2.0, 1.5, 0.0):
        assert torch.autograd.gradcheck(
            lambda x, gamma=gamma: sigmoid_focal_loss(x, target, gamma, ALPHA, None, 'mean'), logits
        )


def test_a_certain_error_costs_the_clamped_logarithm(device):
    logits = torch.tensor([[-200.0, 200.0]], device=device)
    loss = sigmoid_focal_loss(logits, torch.tensor([0], device=device), GAMMA, ALPHA, None, 'none')
    expected = -math.log(torch.finfo(torch.float32).tiny)
    torch.testing.assert_close(loss.cpu(), torch.tensor([[0.25 * expected, 0.75 * expected]]))


def test_autocast(device):
    torch.manual_seed(0)
    logits = torch.randn(6, 4, device=device).bfloat16().requires_grad_()
    target = torch.tensor([0, 3, 1, 2, 0, 0], device=device)
    with torch.autocast(device.type, torch.bfloat16):
        low = sigmoid_focal_loss(logits, target, GAMMA, ALPHA, None, 'sum')
        low.backward()
    assert low.dtype == logits.grad.dtype == torch.bfloat16
    full = sigmoid_focal_loss(logits.detach().float(), target, GAMMA, ALPHA, None, 'sum')
    torch.testing.assert_close(low.float(), full, rtol=0.02, atol=0.02)


def test_no_samples(device):
    logits = torch.zeros(0, 4, device=device, requires_grad=True)
    target = torch.zeros(0, dtype=torch.long, device=device)
    out = sigmoid_focal_loss(logits, target, GAMMA, ALPHA, None, 'sum')
    out.backward()
    assert out == 0
    assert logits.grad.shape == (0, 4)
