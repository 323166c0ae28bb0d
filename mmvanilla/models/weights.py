"""The formats in which VanillaNet's weights were published, and how they fit a net.

ImageNet nets are ``{'model': ..., 'model_ema': ...}`` with the bare names of backbone and head;
detectors are ``{'meta': ..., 'state_dict': ...}`` with the backbone's names behind ``backbone.``.
"""

import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ..errors import CheckpointError
from ..safe_load import safe_loading as load_safely

PARTS = ('stem.', 'stem1.', 'stem2.', 'stages.')
OPTIONAL = ('num_batches_tracked', '_act_learn')  # may lack in a checkpoint


def safe_loading(enabled: bool = True) -> load_safely:
    """Load every checkpoint safely and understand the published formats, from now on.

    As a context manager, ``with safe_loading():``, until the end of the block.

    Args:
        enabled: Whether to; False goes back to mmengine's own loading.
    """
    return load_safely(enabled, to_state_dict)


def to_state_dict(checkpoint: dict) -> dict:
    """Bring an ImageNet checkpoint into OpenMMLab's form; leave every other as it is.

    The averaged weights are preferred. The backbone's names get the prefix ``backbone.`` and the
    head's ``head.``, as in a classifier of mmpretrain.

    Args:
        checkpoint: What was in the file.
    """
    if 'state_dict' in checkpoint:
        return checkpoint
    averaged, last = (checkpoint.get(name) for name in ('model_ema', 'model'))
    weights = next((w for w in (averaged, last) if isinstance(w, dict) and w), checkpoint)
    if not any(str(name).startswith(PARTS) for name in weights):
        return checkpoint
    return dict(
        state_dict={
            ('backbone.' if name.startswith(PARTS) else 'head.') + name: value
            for name, value in weights.items()
        }
    )


def to_published(state_dict: dict) -> dict:
    """Bring tensors under OpenMMLab's names into the form in which the authors publish them.

    Args:
        state_dict: The tensors of a classifier (with its ``head.``), or of a detector.
    """
    weights = {name: value for name, value in state_dict.items() if '_act_learn' not in name}
    if not any(name.startswith('head.') for name in weights):
        return dict(meta={}, state_dict=weights)
    return dict(
        model={n.removeprefix('backbone.').removeprefix('head.'): v for n, v in weights.items()}
    )


def fit(state_dict: dict, net: nn.Module, prefix: str) -> None:
    """Make a state dict fit a VanillaNet, in place, or refuse it.

    Kernels of a smaller ``act_num`` are padded with zeros, which leaves the function unchanged.
    Counters of batches and the deep-training weight may lack. Where the backbone itself is loaded,
    its names may carry the prefix ``backbone.``, and what belongs to heads is dropped.

    Args:
        state_dict: What is about to be loaded, as ``_load_from_state_dict`` gets it.
        net: The VanillaNet.
        prefix: Name of the net in the model, with its dot; '' if it is the model.

    Raises:
        CheckpointError: If a tensor is missing or has another shape, or belongs to a deeper net.
    """
    if not prefix:
        _keep_backbone(state_dict)
    expected = {prefix + name: value for name, value in net.state_dict(keep_vars=True).items()}
    _check_form(state_dict, net, prefix)
    padded = 0
    for name, value in expected.items():
        if name not in state_dict:
            if not name.endswith(OPTIONAL):
                raise CheckpointError(
                    f'the checkpoint lacks {name!r}, so it is of another net or incomplete; '
                    "set the backbone's arch to that of the checkpoint"
                )
            state_dict[name] = value
        elif state_dict[name].shape != value.shape:
            state_dict[name] = _pad_kernel(name, state_dict[name], value)
            padded += 1
    if surplus := sorted(state_dict.keys() - expected.keys()):
        raise CheckpointError(
            f'the checkpoint holds {surplus[0]!r}, which the net has not, so it belongs to another '
            "net; set the backbone's arch to that of the checkpoint"
        )
    print_log(
        f'VanillaNet: {len(expected)} tensors loaded'
        + (f', {padded} of them with kernels padded from a smaller act_num' if padded else ''),
        logger='current',
    )


def fit_head(state_dict: dict, head: nn.Module, prefix: str) -> None:
    """Make a state dict fit a VanillaNetClsHead, in place, or refuse it.

    One without any head leaves it new; counters of batches and the deep-training weight may lack.

    Args:
        state_dict: What is about to be loaded, as ``_load_from_state_dict`` gets it.
        head: The VanillaNetClsHead.
        prefix: Name of the head in the model, with its dot; '' if it is the model.

    Raises:
        CheckpointError: If the classes are of another number, or a tensor is missing or of another
            shape or form.
    """
    names = [name for name in state_dict if name.startswith((f'{prefix}cls.', f'{prefix}cls1.'))]
    if not names:
        return
    if (deployed := f'{prefix}cls.2.weight' in state_dict) != head.deploy:
        raise CheckpointError(
            f'the head is in {"deploy" if deployed else "training"} form in the checkpoint, but in '
            f'{"deploy" if head.deploy else "training"} form in the net; set deploy={deployed} on '
            'the head'
        )
    for name, value in head.state_dict(keep_vars=True).items():
        if prefix + name not in state_dict:
            if not name.endswith(OPTIONAL):
                raise CheckpointError(
                    f'the checkpoint lacks {prefix + name!r}, so its head is incomplete; '
                    'use another checkpoint'
                )
            state_dict[prefix + name] = value
        found = state_dict[prefix + name]
        if found.ndim and len(found) != len(value):
            raise CheckpointError(
                f'the checkpoint has {len(found)} classes and the head {len(value)}; set '
                f'num_classes={len(found)} on the head, or, to train other classes, name the '
                "checkpoint in the backbone's init_cfg"
            )
        if found.shape != value.shape:
            raise CheckpointError(
                f'{prefix + name!r} has the shape {tuple(found.shape)} in the checkpoint and '
                f"{tuple(value.shape)} in the net; set the head's in_channels to that of the "
                'checkpoint'
            )


def _keep_backbone(state_dict: dict) -> None:
    """Strip the prefix of the backbone's names and drop what belongs to heads."""
    for name in list(state_dict):
        short = name.removeprefix('backbone.')
        value = state_dict.pop(name)
        if short.startswith(PARTS) or short == '_act_learn':
            state_dict[short] = value


def _check_form(state_dict: dict, net: nn.Module, prefix: str) -> None:
    """Refuse a checkpoint without a VanillaNet, or of the other form than the net's."""
    deployed = any(name.startswith(f'{prefix}stem.') for name in state_dict)
    if not deployed and not any(name.startswith(f'{prefix}stem1.') for name in state_dict):
        raise CheckpointError(
            f'the checkpoint holds no weights of a VanillaNet under the name {prefix!r}; '
            'check that it is the right file'
        )
    if deployed != net.deploy:
        raise CheckpointError(
            f'the checkpoint is in {"deploy" if deployed else "training"} form, but the net is in '
            f'{"deploy" if net.deploy else "training"} form; set deploy={deployed} on the backbone'
        )


def _pad_kernel(name: str, value: Tensor, expected: Tensor) -> Tensor:
    """Pad a depthwise kernel with zeros to the expected size."""
    margin = (expected.shape[-1] - value.shape[-1]) // 2
    if value.ndim == 4 and value.shape[:2] == expected.shape[:2] and expected.shape[1] == 1:
        if margin > 0:
            return F.pad(value, [margin] * 4)
        raise CheckpointError(
            f'{name!r} is {value.shape[-1]} wide in the checkpoint and {expected.shape[-1]} in the '
            f'net; set act_num of the backbone to at least {value.shape[-1] // 2}'
        )
    raise CheckpointError(
        f'{name!r} has the shape {tuple(value.shape)} in the checkpoint and '
        f"{tuple(expected.shape)} in the net; set the backbone's arch to that of the checkpoint"
    )


def check_weights(model: nn.Module, checkpoint: dict, whole: bool) -> None:
    """Compare the names and shapes of a checkpoint with a model's.

    Args:
        model: The model, wrapped or not.
        checkpoint: What was in the file.
        whole: Whether everything must be in it, as for a test. Otherwise heads may lack or differ,
            as for fine-tuning on other classes, and so may a part of which the checkpoint has
            nothing at all, such as the neck in an ImageNet net's.

    Raises:
        CheckpointError: If a tensor is missing or has another shape.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    found = {
        name.removeprefix('module.'): value
        for name, value in checkpoint.get('state_dict', checkpoint).items()
    }
    parts = {name.split('.')[0] for name in found}
    for name, value in model.state_dict().items():
        part = name.split('.')[0]
        aside = part == 'backbone' or name.endswith(OPTIONAL)
        if not whole:
            aside = aside or part.endswith('head') or part not in parts
        if aside:
            continue
        if name not in found:
            raise CheckpointError(
                f'the checkpoint lacks {name!r}, so a part of the model would stay random; '
                'use the checkpoint of this config'
            )
        if found[name].shape != value.shape:
            raise CheckpointError(
                f'{name!r} has the shape {tuple(found[name].shape)} in the checkpoint and '
                f'{tuple(value.shape)} in the model; use the checkpoint of this config'
            )
