"""Focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002) of sigmoids.

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
    """Fill ``output`` (N, C) with the loss of every sample and class.

    ``input`` (N, C) are logits. A background sample in ``target`` (N,) int64 is a negative of every
    class. ``weight`` (C,) are class weights; it is empty for none. The positive term has the weight
    ``alpha``, the negative one 1 - ``alpha``.
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


def _log(p: Tensor) -> Tensor:
    """Return log(p), clamped as in mmcv at the least normal float32."""
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()


def _select(
    positive: Tensor, negative: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> Tensor:
    """Return the loss (N, C) from the terms of positive and negative classes (N, C)."""
    is_target = target[:, None] == torch.arange(positive.size(1), device=target.device)
    loss = -torch.where(is_target, alpha * positive, (1 - alpha) * negative)
    classes = weight.numel()
    if classes == 0:
        return loss
    known = (target >= 0) & (target < classes)
    weights = F.pad(weight.to(loss), (0, 1), value=1.0)  # the last is for background
    return loss * weights[target.where(known, classes)][:, None]
