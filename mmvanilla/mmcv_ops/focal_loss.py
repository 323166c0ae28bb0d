"""Focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002) of sigmoid and softmax.

Each function fills a tensor that mmcv allocated for its result. A label outside 0 to C - 1, for C
classes, is background and has class weight 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import at_least_float32


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` with the loss of every sample and class.

    Args:
        input: Logits (N, C).
        target: Labels (N,) int64; a background sample is a negative of every class.
        weight: Class weights (C,), or empty for none.
        output: (N, C).
        gamma: Exponent of the probability of being wrong.
        alpha: Weight of the positive term; the negative one has 1 - alpha.
    """
    p = at_least_float32(input).sigmoid()
    positive = (1 - p) ** gamma * _log(p)
    negative = p**gamma * _log(1 - p)
    output.copy_(_select(positive, negative, target, weight, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of each loss by its logit.

    The other arguments are those of ``sigmoid_focal_loss_forward``.
    """
    p = at_least_float32(input).sigmoid()
    positive = (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    negative = p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(_select(positive, negative, target, weight, alpha))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N,) with the loss of every sample, times ``alpha``.

    ``input`` (N, C) are probabilities, after the softmax; a negative label has no loss.
    The other arguments are those of ``sigmoid_focal_loss_forward``.
    """
    p = _of_target(input, target)
    loss = -alpha * (1 - p) ** gamma * _log(p)
    output.copy_(loss * _sample_weight(target, weight, p) * (target >= 0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of each sample's loss by its logits.

    ``buff`` (N,) receives the derivative by log p of the label; the other arguments are those
    of ``softmax_focal_loss_forward``.
    """
    p = _of_target(input, target)
    slope = alpha * (gamma * (1 - p) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma)
    slope = slope * _sample_weight(target, weight, p) * (target >= 0)
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * (_is_target(input, target).to(p) - at_least_float32(input)))


def _log(p: Tensor) -> Tensor:
    """Return log(p), clamped as in mmcv at the least normal float32."""
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()


def _is_target(input: Tensor, target: Tensor) -> Tensor:
    return target[:, None] == torch.arange(input.size(1), device=input.device)


def _of_target(input: Tensor, target: Tensor) -> Tensor:
    """Return the probability (N,) of each sample's label."""
    return at_least_float32(input).gather(1, target.clamp(min=0)[:, None])[:, 0]


def _select(
    positive: Tensor, negative: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> Tensor:
    is_target = _is_target(positive, target)
    loss = -torch.where(is_target, alpha * positive, (1 - alpha) * negative)
    return loss * _sample_weight(target, weight, positive)[:, None]


def _sample_weight(target: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """Return the class weight (N,) of each sample, 1 for background."""
    if weight.numel() == 0:
        return torch.ones_like(target, dtype=like.dtype)
    classes = weight.numel()
    known = (target >= 0) & (target < classes)
    return F.pad(weight.to(like), (0, 1), value=1.0)[target.where(known, classes)]
