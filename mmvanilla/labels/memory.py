"""Estimate the memory of a training step from what its forward pass keeps."""

import psutil
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

WEIGHT_COPIES = 4  # weights, gradients and the two averages of AdamW
MARGIN = 1.25  # for losses, and the heads of a detector, which need real images to run


def step_memory(cfg: Config, size: tuple[int, int]) -> tuple[int, int]:
    """Return the bytes of a training step for the weights, and for each image.

    The forward pass runs on the meta device, without memory or computation.

    Args:
        cfg: A config with ``model`` and ``default_scope``.
        size: Height and width of an image in pixels.

    Raises:
        RuntimeError: If an operator of the model has no meta version.
    """
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to('meta').train()
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor)] = tensor
        return tensor

    images = torch.zeros(2, 3, *size, device='meta')  # batch norms need two
    weights = {id(weight) for weight in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if cfg.default_scope == 'mmdet':
            model.extract_feat(images)
        else:
            model(images, mode='tensor')
    found = sum(tensor.nbytes for key, tensor in kept.items() if key not in weights)
    total = sum(weight.nbytes for weight in model.parameters())
    return WEIGHT_COPIES * total, int(found * MARGIN / len(images))


def free_memory() -> tuple[int, str]:
    """Return the free bytes for a training, and where: on the current GPU, else in the machine."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], 'on the GPU'
    return psutil.virtual_memory().available, 'in the machine'
