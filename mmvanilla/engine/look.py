"""Look at a model in its first step: failing modules, strides, classes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..checks import Finding, report
from ..errors import UserError, sentence

FAR = 1.25  # ratio of widths; rounding changes a width of 8 cells or more by less


@contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Watch the first step of a model in training.

    Warn of heads and RoI extractors that expect other strides than their features have.

    Args:
        model: The model, in a wrapper or not.

    Raises:
        UserError: If a module fails; the message names it.
    """
    model = unwrap(model)
    backbone = getattr(model, 'backbone', None)
    strides = {name: _strides(module) for name, module in model.named_modules()}
    seen: dict[str, list[int]] = {}  # the widths that modules were given

    def note(name: str, module: nn.Module, inputs: tuple) -> None:
        levels = inputs[0] if inputs and isinstance(inputs[0], list | tuple) else inputs[:1]
        seen[name] = [level.shape[-1] for level in levels if isinstance(level, Tensor)]

    handles = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in model.named_modules()
        if strides[name] or module is backbone
    ]
    try:
        yield
    except (UserError, torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        name = failing_module(model, error)
        if name is None:
            raise
        raise UserError(
            f'{name} fails in the first step ({type(error).__name__}: {sentence(error)}); compare '
            'its settings with the features that it gets, the backbone gives channels '
            f'{getattr(backbone, "out_channels", None)}, strides '
            f'{getattr(backbone, "out_strides", None)}'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if image := seen.pop('backbone', []):
        report(
            Finding(
                f'model.{name} has strides {strides[name]}, but its features have strides '
                f'{[round(image[0] / width, 1) for width in widths]}; its boxes are misplaced '
                'unless it expects that: compare the strides of its anchors or RoI extractor with '
                "the backbone's out_indices"
            )
            for name, widths in seen.items()
            if len(widths) == len(strides[name]) and _far(widths, strides[name], image[0])
        )


def _strides(module: nn.Module) -> list[float]:
    """Return the strides that a head or an RoI extractor expects, [] if it names none."""
    strides = getattr(getattr(module, 'prior_generator', None), 'strides', None)
    strides = strides or getattr(module, 'featmap_strides', None)
    with suppress(TypeError, ValueError, IndexError):
        return [float(s[0] if isinstance(s, list | tuple) else s) for s in strides or []]
    return []


def _far(widths: list[int], strides: list[float], image: int) -> bool:
    """Return whether features of an image have other strides; all are widths in pixels."""
    return any(
        max(width, image / stride) >= 8 and not 1 / FAR < width * stride / image < FAR
        for width, stride in zip(widths, strides, strict=True)
    )


def failing_module(model: nn.Module, error: BaseException) -> str | None:
    """Return the name of the innermost module that an error passed through."""
    names = {id(module): f'model.{name}' for name, module in model.named_modules() if name}
    found, trace = None, error.__traceback__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get('self')), found)
        trace = trace.tb_next
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DDP and the like."""
    while is_model_wrapper(model):
        model = model.module
    return model


def check_head_classes(model: nn.Module, labels: int, classes: int) -> Iterator[Finding]:
    """Compare the classes of heads with the labels of the data.

    Args:
        model: The model.
        labels: How many labels the data use: the highest one plus 1; 0 if unknown.
        classes: How many classes the data set names.

    Yields:
        A refusal for a head with fewer classes than labels: the label that is left over would be
        the background, or out of range. A warning for another number than that of the classes.
    """
    heads = {
        name.removeprefix('module.'): number
        for name, module in model.named_modules()
        if isinstance(number := getattr(module, 'num_classes', None), int)
        and number > 0
        and _sees_classes(name, module)
    }
    for name, number in heads.items():
        if number < labels:
            yield Finding(
                f'model.{name}.num_classes is {number}, but the data have labels of {labels} '
                f'classes; set num_classes to {max(labels, classes)}, or correct metainfo.classes',
                refuse=True,
            )
    other = {name: n for name, n in heads.items() if classes and n != classes and n >= labels}
    if other:
        listed = ', '.join(f'model.{name} {number}' for name, number in other.items())
        yield Finding(
            f'num_classes is not that of the data, {classes} ({listed}); set it to {classes} '
            'unless the model needs another'
        )


def _sees_classes(name: str, module: nn.Module) -> bool:
    """Return whether a module learns the labels of objects or images, not of pixels or boxes."""
    path = f'{name}.{type(module).__name__}'.lower()
    others = 'rpn', 'semantic', 'backbone', 'data_preprocessor'
    return not any(word in path for word in others) and not getattr(module, 'class_agnostic', False)
