"""Build a teacher, load its weights and convert images to its preprocessing."""

import copy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, load_state_dict
from torch import Tensor, nn

from ..errors import CheckpointError, UserError, sentence
from ..installed import check_library
from ..models.weights import check_weights
from ..package_configs import PREFIX, find_config
from ..safe_load import safe_loading
from ..type_name import scope


def model_config(teacher: str | dict) -> dict:
    """Return the config of a teacher's model.

    Args:
        teacher: The model's config, or the name of a config file: a path, ``'mmdet::...'`` or a
            config of this package.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If its library is not installed.
    """
    if not isinstance(teacher, str):
        return copy.deepcopy(teacher)
    if '::' in teacher and not teacher.startswith(PREFIX):
        check_library(teacher.partition('::')[0])  # mmengine would install it
        cfg = get_config(teacher)
    else:
        cfg = Config.fromfile(find_config(teacher))
    model = dict(cfg.model, _scope_=scope(cfg))
    if cfg.get('data_preprocessor'):  # as mmengine's runner does
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model


def build_teacher(teacher: str | dict, file: str | None) -> tuple[nn.Module, dict]:
    """Build a teacher with trained weights; no code in its checkpoint is run.

    Args:
        teacher: The teacher, see ``model_config``.
        file: Its checkpoint.

    Returns:
        The model in eval mode on the CPU, without gradients, and the checkpoint's ``meta``.

    Raises:
        CheckpointError: If a weight is missing or does not fit.
        FileNotFoundError: If a file does not exist.
        UserError: If there is no checkpoint.
    """
    if not file:
        raise UserError(
            'the teacher has no checkpoint and would be random; expected trained weights; set '
            'teacher_checkpoint'
        )
    with safe_loading(), torch.random.fork_rng(devices=[]):
        checkpoint = CheckpointLoader.load_checkpoint(file, 'cpu', 'silent')
        model = MODELS.build(model_config(teacher))
        weights = checkpoint.get('state_dict', checkpoint)
        # Tables of indices are computed, and some published files do not have them.
        tables = {n: b for n, b in model.named_buffers() if not b.is_floating_point()}
        try:
            check_weights(model, {**tables, **weights})
            load_state_dict(model, weights, strict=False, logger='silent')
        except CheckpointError as error:
            raise CheckpointError(
                f"the teacher's checkpoint {file!r} does not fit its config: {sentence(error)}"
            ) from error
    return model.eval().requires_grad_(False), checkpoint.get('meta', {})


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two models have equal parameters."""
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )


class Conversion:
    """Convert a preprocessed batch from the preprocessing of one model to that of another.

    Both preprocessors get test images, which show mean, std and order of the channels. Mixed
    images are converted exactly; padded pixels keep their colour.

    Args:
        source: Data preprocessor of the batch.
        target: Data preprocessor of the other model, on the same device.
        channels: Channels of the images.

    Raises:
        UserError: If one cannot be computed from the other.
    """

    def __init__(self, source: nn.Module, target: nn.Module, channels: int) -> None:
        try:
            (matrix, offset), (wanted, shift) = (_affine(p, channels) for p in (source, target))
            self.matrix = wanted @ torch.linalg.inv(matrix)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"images of {channels} channels in the student's preprocessing cannot be "
                f"converted to the teacher's ({sentence(error)}); give both models a "
                'data_preprocessor for such images'
            ) from error
        self.offset = shift - self.matrix @ offset
        self.is_identity = torch.equal(matrix, wanted) and torch.equal(offset, shift)

    def __call__(self, images: Tensor) -> Tensor:
        """Convert images (N, C, H, W)."""
        if self.is_identity:
            return images
        with torch.autocast(images.device.type, enabled=False):
            x = torch.einsum('dc,nchw->ndhw', self.matrix.to(images), images)
            return x + self.offset.to(images)[:, None, None]


def _affine(preprocessor: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Return A (C, C) and b (C) in float64, where a pixel p is preprocessed to A p + b."""
    images = torch.zeros(channels + 1, channels, 32, 32, dtype=torch.uint8)
    for channel in range(channels):
        images[channel + 1, channel] = 255
    batch = preprocessor(dict(inputs=list(images), data_samples=None), False)
    pixels = batch['inputs'][:, :, 0, 0].double()
    return (pixels[1:] - pixels[0]).T / 255, pixels[0]
