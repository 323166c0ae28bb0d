"""The losses against their formulas, element by element."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

from mmvanilla import UserError
from mmvanilla.distill import ChannelWiseDivergence, KLDivergence, PKDLoss


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def divergence(student, teacher, tau):
    """Return the KL divergence of two lists of logits."""
    q, p = (softmax([value / tau for value in values]) for values in (student, teacher))
    return tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def gradient(loss, student, teacher):
    student.grad = None
    loss(student, teacher).backward()
    return student.grad


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_kl_divergence(tau):
    student, teacher = torch.randn(3, 5, requires_grad=True), 3 * torch.randn(3, 5)
    loss = KLDivergence(tau, loss_weight=2.0)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = 2 * sum(divergence(*pair, tau) for pair in pairs) / 3
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert loss(student, student).item() == pytest.approx(0, abs=1e-6)
    # d loss / d student = weight * tau / N * (q - p)
    q, p = ((x / tau).softmax(1) for x in (student, teacher))
    torch.testing.assert_close(gradient(loss, student, teacher), 2 * tau / 3 * (q - p).detach())


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_channel_wise_divergence(tau):
    student, teacher = torch.randn(2, 3, 4, 5), 2 * torch.randn(2, 3, 4, 5)
    maps = zip(student.reshape(6, 20).tolist(), teacher.reshape(6, 20).tolist(), strict=True)
    expected = 5 * sum(divergence(*pair, tau) for pair in maps) / 6
    loss = ChannelWiseDivergence(tau)
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    # A constant added to a class map does not count.
    assert loss(teacher + 7, teacher).item() == pytest.approx(0, abs=1e-5)


def correlation(student, teacher):
    """Return Pearson's correlation of two lists."""
    means = [sum(values) / len(values) for values in (student, teacher)]
    centred = [
        [value - mean for value in values]
        for values, mean in zip((student, teacher), means, strict=True)
    ]
    product = sum(a * b for a, b in zip(*centred, strict=True))
    return product / math.prod(math.sqrt(sum(v * v for v in values)) for values in centred)


def test_pkd():
    ours = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 3)]
    theirs = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 3)]
    expected = 0.0
    for student, teacher in zip(ours, theirs, strict=True):
        for channel in range(3):
            pair = (x[:, channel].flatten().tolist() for x in (student, teacher))
            expected += (1 - correlation(*pair)) / 3
    loss = PKDLoss(loss_weight=1.5)
    assert loss(ours, theirs).item() == pytest.approx(1.5 * expected, rel=1e-4)
    # Scale and offset of a channel do not count.
    assert loss(tuple(3 * x - 2 for x in theirs), theirs).item() == pytest.approx(0, abs=1e-4)


def test_the_smaller_of_two_sizes_is_enlarged():
    small, large = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 8, 12)
    enlarged = F.interpolate(small, (8, 12), mode='bilinear')
    loss = PKDLoss()
    torch.testing.assert_close(loss(small, large), loss(enlarged, large))
    torch.testing.assert_close(loss(large, small), loss(large, enlarged))
    loss = ChannelWiseDivergence()
    torch.testing.assert_close(loss(large, small), loss(large, enlarged))


def test_levels_limits_the_comparison():
    ours, theirs = torch.randn(5, 2, 3, 4, 4), torch.randn(4, 2, 3, 4, 4)
    found = PKDLoss(levels=4)(list(ours), list(theirs))
    torch.testing.assert_close(found, PKDLoss()(list(ours[:4]), list(theirs)))


@pytest.mark.parametrize(
    ('loss', 'student', 'teacher', 'message'),
    [
        (KLDivergence(), torch.rand(2, 3), torch.rand(2, 4), r"'head' gives \(2, 3\).*\(2, 4\)"),
        (KLDivergence(), (torch.rand(2, 3),), torch.rand(2, 3), 'tuple in the student'),
        (ChannelWiseDivergence(), torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4), 'same classes'),
        (PKDLoss(), torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4), 'the same channels'),
        (PKDLoss(), [torch.rand(2, 3, 4, 4)] * 3, [torch.rand(2, 3, 4, 4)] * 4, '3 levels.* 4'),
    ],
)
def test_outputs_that_do_not_fit_are_refused(loss, student, teacher, message):
    with pytest.raises(UserError, match=message):
        loss(student, teacher)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('loss', [KLDivergence(), ChannelWiseDivergence(), PKDLoss()])
def test_losses_are_computed_in_float32(loss, dtype):
    shape = (2, 300) if isinstance(loss, KLDivergence) else (2, 3, 40, 40)
    student, teacher = (20 * torch.randn(shape)).to(dtype), (20 * torch.randn(shape)).to(dtype)
    found = loss(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(student.float(), teacher.float()))


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
@pytest.mark.parametrize('name', ['KLDivergence', 'ChannelWiseDivergence', 'PKDLoss'])
def test_every_library_finds_the_losses(name, scope):
    with MODELS.switch_scope_and_registry(scope) as registry:
        assert registry.build(dict(type=name, loss_weight=3.0)).loss_weight == 3
