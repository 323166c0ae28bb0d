"""Losses that compare a student's output with its teacher's, named as in mmrazor."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import UserError


class DistillLoss(nn.Module):
    """Base class of losses between the outputs of one module of both models.

    Attributes:
        name: The loss is logged as ``distill.loss_NAME``.
        compares_classes: Whether the channels are the classes of the data.

    Args:
        module: Name of the compared module, in the student and in the teacher.
        loss_weight: Factor of the loss.
    """

    name: ClassVar[str]
    compares_classes: ClassVar[bool] = True

    def __init__(self, module: str, loss_weight: float) -> None:
        super().__init__()
        self.module, self.loss_weight = module, loss_weight

    def check(self, student: Any, teacher: Any, ndim: int) -> None:
        """Raise UserError unless both are tensors (N, C, ...) of the same N and C."""
        shapes = [_shape(output) for output in (student, teacher)]
        fits = all(isinstance(shape, tuple) and len(shape) == ndim for shape in shapes)
        if not fits or shapes[0][:2] != shapes[1][:2]:
            remedy = 'give both the same channels'
            if self.compares_classes:
                remedy = 'take a teacher of the same classes, or compare features (PKDLoss)'
            raise UserError(
                f'{self.module!r} gives {shapes[0]} in the student and {shapes[1]} in the teacher; '
                f'{type(self).__name__} expects {ndim} axes and the same channels; {remedy}'
            )


def _shape(output: Any) -> Any:
    return tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__


@MODELS.register_module()
class KLDivergence(DistillLoss):
    """KL divergence of class probabilities, for logits (N, C) of classifiers.

    With p and q the softmax of the teacher's and the student's logits, each divided by tau:
    ``tau ** 2 / N * sum(p * log(p / q))`` over images and classes.

    Sources: Hinton et al., https://arxiv.org/abs/1503.02531; with tau 1 and a long training,
    "vanilla KD", https://arxiv.org/abs/2305.15781.

    Args:
        tau: Temperature.
        module: Name of the module that computes the logits.
        loss_weight: Factor of the loss.
    """

    name = 'kl'

    def __init__(self, tau: float = 1.0, module: str = 'head', loss_weight: float = 1.0) -> None:
        super().__init__(module, loss_weight)
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of logits (N, C)."""
        self.check(student, teacher, 2)
        log_q, log_p = ((x.float() / self.tau).log_softmax(1) for x in (student, teacher))
        loss = F.kl_div(log_q, log_p, reduction='batchmean', log_target=True)
        return self.loss_weight * self.tau**2 * loss


@MODELS.register_module()
class ChannelWiseDivergence(DistillLoss):
    """KL divergence over positions, for logits (N, C, H, W) of segmentors.

    With p and q the softmax over the positions of each class map of teacher and student, divided
    by tau: ``tau ** 2 / (N * C) * sum(p * log(p / q))``. A teacher of another stride is resized.

    Source: Shu et al., Channel-wise Knowledge Distillation, https://arxiv.org/abs/2011.13256.

    Args:
        tau: Temperature.
        module: Name of the module that computes the logits.
        loss_weight: Factor of the loss.
    """

    name = 'cwd'

    def __init__(
        self, tau: float = 1.0, module: str = 'decode_head.conv_seg', loss_weight: float = 5.0
    ) -> None:
        super().__init__(module, loss_weight)
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of logits (N, C, H, W)."""
        self.check(student, teacher, 4)
        maps = (student.float(), resized(teacher.float(), student.shape[-2:]))
        log_q, log_p = ((x / self.tau).flatten(2).flatten(0, 1).log_softmax(1) for x in maps)
        loss = F.kl_div(log_q, log_p, reduction='batchmean', log_target=True)
        return self.loss_weight * self.tau**2 * loss


@MODELS.register_module()
class PKDLoss(DistillLoss):
    """One minus Pearson's correlation of features, for detectors with any head.

    Each channel is standardized to mean 0 and variance 1 over images and positions. Half the mean
    squared difference is 1 - r, with the correlation r of student and teacher, and is averaged
    over the channels and added over the levels. The smaller one of two levels is enlarged.

    Source: Cao et al., PKD, https://arxiv.org/abs/2207.02039.

    Args:
        levels: How many levels to compare, beginning with the finest; None compares all.
        module: Name of the module that computes the features.
        loss_weight: Factor of the loss; 6 in mmrazor's configs for COCO.
    """

    name = 'pkd'
    compares_classes = False

    def __init__(
        self, levels: int | None = None, module: str = 'neck', loss_weight: float = 6.0
    ) -> None:
        super().__init__(module, loss_weight)
        self.levels = levels

    def forward(self, student: Any, teacher: Any) -> Tensor:
        """Return the loss of features (N, C, H, W), one tensor or a sequence of levels."""
        ours, theirs = (_levels(features)[: self.levels] for features in (student, teacher))
        if len(ours) != len(theirs) or not ours:
            raise UserError(
                f'{self.module!r} gives {len(ours)} levels in the student and {len(theirs)} in the '
                'teacher; PKDLoss compares them one by one; set levels to how many both have'
            )
        distances = [self.distance(*pair) for pair in zip(ours, theirs, strict=True)]
        return self.loss_weight * torch.stack(distances).sum()

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one level."""
        self.check(student, teacher, 4)
        size = max(student.shape[-2:], teacher.shape[-2:])
        ours, theirs = (standardized(resized(x.float(), size)) for x in (student, teacher))
        return F.mse_loss(ours, theirs) / 2


def _levels(features: Any) -> Sequence:
    return (features,) if isinstance(features, Tensor) else tuple(features)


def standardized(x: Tensor) -> Tensor:
    """Scale each channel of (N, C, H, W) to mean 0 and variance 1 over images and positions."""
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (std + 1e-6)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate (N, C, H, W) to another size, unless it has that size."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode='bilinear', align_corners=False)
