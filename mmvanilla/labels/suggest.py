"""A config for a data set: a recipe with other classes, data, image sizes and schedule."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from ..errors import UserError, sentence
from ..type_name import type_name
from .facts import Facts
from .memory import free_memory, step_memory

TASKS = dict(mmdet='detection', mmseg='segmentation', mmpretrain='classification')
MAX_ENLARGEMENT = 2  # of images by the recipe's scale
MIN_OBJECT = 8  # pixels; smaller objects are at the limit of strides of 4 and 8
MIN_OBJECTS = 30  # of a class
STEPS = 1500  # of training at least
WARM_UP = 2000  # steps at most
MAX_EPOCHS = 300
VALIDATIONS = 20  # in a training at most
PICTURES = 5  # that a validation draws
PATIENCE = 10  # validations without a better result
ANCHORS = (1, 1.5, 2, 3, 4, 6, 8)  # octave base scales that are tried
GIB = 2**30
SHARE = 0.8  # of the free memory
GAIN = 0.02  # of boxes with an anchor of IoU 0.5, for other anchors than the recipe's
CHANNELS = [512, 1024, 2048, 4096]  # of VanillaNet-13 at strides 4, 8, 16, 32
PRETRAINED = (
    'https://github.com/huawei-noah/VanillaNet/releases/download/ckpt/'
    'vanillanet_13_act_num_4_kd_pretrain.pth'
)
MONITORED = dict(detection='coco/{}_mAP', segmentation='mIoU', classification='accuracy/top1')


class Setting(NamedTuple):
    """One assignment of the config and the reason for it."""

    name: str
    value: Any
    reason: str = ''


def suggest(
    cfg: Config,
    facts: Facts,
    root: Path,
    batch_size: int | None = None,
    epochs: int | None = None,
    weights: str | None = None,
) -> tuple[list[Setting], list[str]]:
    """Return the settings of a child config, and warnings about the data.

    Args:
        cfg: The recipe.
        facts: The data set, in ``root``.
        root: Its folder.
        batch_size: Images a step; None keeps the recipe's, at most a quarter of the images and
            what the memory holds.
        epochs: How often all images are learned; None chooses by their number.
        weights: Checkpoint to start from; None keeps the recipe's backbone.

    Raises:
        UserError: If the recipe is for another task, or learns masks and the data have none.
    """
    task = TASKS.get(cfg.default_scope, '')
    if task != facts.task:
        raise UserError(
            f'the recipe is for {task}, but {str(root)!r} is data for {facts.task}; name another '
            'recipe'
        )
    masks = _uses_masks(cfg)
    if masks and not facts.masks:
        raise UserError(
            f'the recipe learns masks, but {str(root)!r} has boxes without polygons; use '
            'faster_rcnn_vanillanet13 or retinanet_vanillanet13'
        )
    settings = [Setting('data_root', f'{root}/'), *_model(cfg, facts), *_backbone(cfg)]
    if facts.task != 'classification':
        reason = f'the classes of {root.name}, in the order of their labels'
        settings.insert(1, Setting('metainfo', dict(classes=facts.classes), reason))
    warnings = list(_warnings(facts))
    scale, reason = _scale(cfg, facts, warnings)
    batch, memory, fits = _batch_size(cfg, facts, settings, scale, batch_size)
    if not fits:
        warnings.append(
            f'a batch of {batch} needs {memory}; name a smaller --batch-size or another recipe'
        )
    memory = f'a batch of {batch} needs {memory}'
    settings += _data(cfg, facts, batch, memory, scale, reason, masks)
    settings += _anchors(cfg, facts, scale)
    settings += _schedule(cfg, facts, batch, epochs)
    if weights:
        settings.append(Setting('load_from', weights, 'the weights that the training starts from'))
    return _joined(settings), warnings


def _batch_size(
    cfg: Config, facts: Facts, settings: list[Setting], scale: float, chosen: int | None
) -> tuple[int, str, bool]:
    """Return the batch size, the memory of a step in words, and whether it is there."""
    (new,) = (each.value for each in _joined(settings) if each.name == 'model')
    copy = Config(dict(model=changed(cfg.model, new), default_scope=cfg.default_scope))
    usual = min(cfg.train_dataloader.batch_size, facts.images['train'] // 4)
    try:
        weights, image = step_memory(copy, _train_size(cfg, facts, scale))
    except RuntimeError as error:  # of an operator that has no meta version
        return chosen or max(1, usual), f'unknown memory ({sentence(error)})', True
    free, where = free_memory()
    fits = int((SHARE * free - weights) // image)
    batch = chosen or max(1, min(usual, fits))
    needed = (weights + batch * image) / GIB
    return batch, f'about {needed:.1f} of {free / GIB:.1f} GiB {where}', batch <= fits


def _train_size(cfg: Config, facts: Facts, factor: float) -> tuple[int, int]:
    """Return height and width of the largest training images, in pixels."""
    steps = innermost(cfg.train_dataloader.dataset)[-1].get('pipeline') or ()
    sizes = [scale for step in steps for scale in _sizes(step)]
    if facts.task == 'detection':
        width, height = np.median(facts.sizes, axis=0)
        times = factor * max(enlargement(facts, size) for size in [_recipe_scale(cfg), *sizes])
        return math.ceil(height * times / 32) * 32, math.ceil(width * times / 32) * 32
    return scaled(tuple(sizes[-1]), factor)  # of crops


def _sizes(step: dict) -> Iterator[tuple[int, int]]:
    """Yield the sizes in a step of a pipeline; one number is a square."""
    for value in (*step.get('scales', ()), step.get('scale'), step.get('crop_size')):
        if isinstance(value, list | tuple) and all(isinstance(each, int) for each in value):
            yield value[0], value[-1]
        elif isinstance(value, int):
            yield value, value


def _joined(settings: list[Setting]) -> list[Setting]:
    """Join settings of the model, such as ``model.neck``, into one."""
    value: dict = {}
    reasons = []
    for setting in settings:
        if setting.name.partition('.')[0] == 'model':
            _, _, part = setting.name.partition('.')
            update(value, {part: setting.value} if part else setting.value)
            reasons += [setting.reason] * bool(setting.reason)
    model = Setting('model', value, '\n'.join(reasons))
    others = [setting for setting in settings if not setting.name.startswith('model')]
    return [*others[:2], model, *others[2:]]


def update(node: dict, new: dict) -> None:
    """Add the values of a nested dict in place."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(node.get(key), dict):
            update(node[key], value)
        else:
            node[key] = value


def changed(node: Any, new: dict) -> dict:
    """Return a plain copy of a config with the settings of a child config."""
    base = node if isinstance(node, dict) and not new.get('_delete_') else {}
    values = {
        key: changed(base.get(key), value) if isinstance(value, dict) else value
        for key, value in new.items()
        if key != '_delete_'
    }
    return {**_plain(base), **values}


def source(settings: list[Setting], base: str, title: str) -> str:
    """Return the text of a config file."""
    from yapf.yapflib.yapf_api import FormatCode

    lines = [f'"""{title}"""', '', f'_base_ = {base!r}', '']
    for setting in settings:
        lines += [f'# {line}' for line in setting.reason.splitlines()]
        lines.append(f'{setting.name} = {_code(setting.value)}')
    style = dict(based_on_style='pep8', column_limit=100, split_before_first_argument=True)
    style |= dict(dedent_closing_brackets=True, each_dict_entry_on_separate_line=True)
    return FormatCode('\n'.join(lines) + '\n', style_config=style)[0]


def _code(value: Any) -> str:
    """Return a value as OpenMMLab writes it, dicts by keywords."""
    if isinstance(value, dict):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f'dict({", ".join(f"{key}={_code(each)}" for key, each in value.items())})'
        return f'{{{", ".join(f"{key!r}: {_code(each)}" for key, each in value.items())}}}'
    if isinstance(value, list):
        return f'[{", ".join(map(_code, value))}]'
    if isinstance(value, tuple):
        # A comma after the last entry would make yapf write an entry a line.
        return f'({", ".join(map(_code, value))}{"," * (len(value) == 1)})'
    return repr(value)


def _uses_masks(cfg: Config) -> bool:
    """Return whether a detector learns masks."""
    steps = innermost(cfg.train_dataloader.dataset)[-1].get('pipeline') or ()
    return any(step.get('with_mask') for step in steps)


def innermost(dataset: Any) -> list:
    """Return a data set's config after the wrappers around it.

    Raises:
        UserError: If there are several data sets.
    """
    found = [dataset]
    while 'dataset' in found[-1]:
        found.append(found[-1]['dataset'])
    if 'datasets' in found[-1]:
        raise UserError('the recipe joins several data sets; name one with a single data set')
    return found


def with_classes(node: Any, number: int, old: int | None = None) -> Any:
    """Return the parts of a model's config that change with the number of classes; else None.

    Lists are returned whole, since a child config replaces them. ``old`` is the number of classes
    of the module around the node.
    """
    if isinstance(node, dict):
        found: dict[str, Any] = {}
        old = node.get('num_classes', old)
        for key, value in node.items():
            if key == 'num_classes':
                found[key] = number
            elif key == 'class_weight' and isinstance(value, list):
                found[key] = value[:1] * number + value[old:]  # the last one of the background
            elif (inner := with_classes(value, number, old)) is not None:
                found[key] = inner
        return found or None
    if isinstance(node, list | tuple):
        inner = [with_classes(each, number, old) for each in node]
        if any(each is not None for each in inner):
            return [merge(each, new) for each, new in zip(node, inner, strict=True)]
    return None


def merge(node: Any, new: Any) -> Any:
    """Return a plain copy of a config with the values of ``new``."""
    if new is None:
        return _plain(node)
    if isinstance(new, dict):
        return {**_plain(node), **{key: merge(node[key], value) for key, value in new.items()}}
    return new


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return type(node)(map(_plain, node)) if isinstance(node, list | tuple) else node


def _model(cfg: Config, facts: Facts) -> Iterator[Setting]:
    number = len(facts.classes)
    found = with_classes(cfg.model, number)
    if found is None:
        raise UserError('the recipe has no num_classes in its model; name another recipe')
    yield Setting('model', found, f'{number} classes wherever the recipe names their number')


def _backbone(cfg: Config) -> Iterator[Setting]:
    """Yield a VanillaNet-13 and its channels in place of a stock config's backbone.

    Raises:
        UserError: If neck and heads do not say which levels they read.
    """
    model = cfg.model
    if type_name(model.get('backbone')) == 'VanillaNet':
        return
    if 'backbone' not in model:
        raise UserError(f'the recipe is a {model.get("type")} without a backbone to replace')
    reason = 'in place of the stock backbone; its weights are those of the published recipes'
    net = dict(_delete_=True, type='VanillaNet', arch='13', act_num=4)
    net['init_cfg'] = dict(type='Pretrained', checkpoint=PRETRAINED)
    read = (
        model.neck if 'neck' in model else model.get('decode_head') or model.get('bbox_head') or {}
    )
    wanted = read.get('in_channels')
    levels = len(wanted) if isinstance(wanted, list | tuple) and 'neck' in model else len(CHANNELS)
    if wanted is None or levels > len(CHANNELS):
        raise UserError(
            'the neck or head of the recipe has no list of in_channels of up to four levels; write '
            'this config by hand'
        )
    if levels < len(CHANNELS):
        net['out_indices'] = tuple(range(len(CHANNELS) - levels, len(CHANNELS)))
    yield Setting('model.backbone', net, reason)
    if model.get('pretrained'):
        yield Setting('model', dict(pretrained=None))
    if 'neck' in model:
        yield Setting('model.neck', dict(in_channels=CHANNELS[-levels:]))
        return
    for name in ('decode_head', 'auxiliary_head', 'bbox_head'):
        head = model.get(name) or {}
        if isinstance(head, list | tuple):
            raise UserError(f'the recipe has several of {name}; write this config by hand')
        if 'in_channels' in head:
            index = head.get('in_index', -1)
            several = isinstance(head['in_channels'], list | tuple)
            found: Any = [CHANNELS[i] for i in index] if several else CHANNELS[index]
            yield Setting(f'model.{name}', dict(in_channels=found))


def _warnings(facts: Facts) -> Iterator[str]:
    unit = 'images' if facts.task != 'detection' else 'objects'
    rare = [name for name in facts.classes if facts.objects[name] < MIN_OBJECTS]
    if rare:
        names = ', '.join(f'{name!r} ({facts.objects[name]})' for name in rare[:5])
        more = f' and {len(rare) - 5} more' * (len(rare) > 5)
        yield f'fewer than {MIN_OBJECTS} training {unit} of {names}{more}; label more of them'
    if facts.images['train'] < 100:
        yield f'{facts.images["train"]} training images; a few hundred are a good start'
    if facts.images['val'] < 20:
        yield f'{facts.images["val"]} validation images, so that metrics are coarse'


def _scale(cfg: Config, facts: Facts, warnings: list[str]) -> tuple[float, str]:
    """Return the factor from the recipe's image size to that of this data, and the reason."""
    if facts.task == 'classification':
        return 1.0, ''
    width, height = np.median(facts.sizes, axis=0)
    times = enlargement(facts, _recipe_scale(cfg))
    factor = min(1.0, MAX_ENLARGEMENT / times)
    reason = f'images of {width:.0f} x {height:.0f} pixels (median)'
    if len(facts.boxes):
        shrink = times * factor
        sides = np.sqrt(facts.boxes.prod(axis=1)) * shrink
        small = (sides < MIN_OBJECT).mean()
        reason += f'; objects of {np.median(sides):.0f} pixels at the scale of the net'
        if small > 0.1:
            warnings.append(
                f'{small:.0%} of the objects are smaller than {MIN_OBJECT} x {MIN_OBJECT} pixels '
                'at the scale of the net; cut the images into tiles, or enlarge the scale'
            )
    return factor, reason


def enlargement(facts: Facts, scale: tuple[float, float]) -> float:
    """Return by how much ``Resize`` enlarges the median image."""
    width, height = np.median(facts.sizes, axis=0)
    return min(max(scale) / max(width, height), min(scale) / min(width, height))


def _recipe_scale(cfg: Config) -> tuple[float, float]:
    """Return width and height that the recipe's test pipeline resizes to."""
    steps = innermost(cfg.val_dataloader.dataset)[-1]['pipeline']
    for step in steps:
        scale = step.get('scale')
        if isinstance(scale, list | tuple) and len(scale) == 2:
            return scale[0], scale[1]
    raise UserError('the recipe resizes test images by no fixed scale; name another recipe')


def scaled(value: Any, factor: float) -> Any:
    """Multiply a size, or sizes in lists, by a factor; the result is divisible by 32."""
    if isinstance(value, list | tuple):
        return type(value)(scaled(each, factor) for each in value)
    return value if factor == 1 else max(32, round(value * factor / 32) * 32)


def _pipeline(steps: list, factor: float, masks: bool) -> list:
    """Return a pipeline for images of another size."""
    found = []
    for step in map(_plain, steps):
        for key in ('scale', 'scales', 'crop_size', 'img_scale', 'size'):
            # One number, or one for width and height; a scale of floats is a range of ratios.
            if isinstance(step.get(key), list | tuple | int):
                step[key] = scaled(step[key], factor)
        if step['type'] == 'RandomFlip' and isinstance(step.get('direction'), list | tuple):
            step.update(prob=0.5, direction='horizontal')  # photos have an upper side
        if step['type'] == 'LoadAnnotations' and 'with_mask' in step:
            step['with_mask'] = masks
        found.append(step)
    return found


def _data(
    cfg: Config, facts: Facts, batch: int, memory: str, factor: float, reason: str, masks: bool
) -> Iterator[Setting]:
    """Yield data sets, loaders and evaluators."""
    rescaled = f'{reason}: {factor:.2g} of the size in the recipe' if factor < 1 else reason
    for split in ('train', 'val'):
        dataset = innermost(cfg[f'{split}_dataloader'].dataset)[-1]
        pipeline = _pipeline(dataset.pipeline, factor, masks)
        yield Setting(f'{split}_pipeline', pipeline, rescaled if split == 'train' else '')
    if factor < 1 and 'size' in (cfg.model.get('data_preprocessor') or {}):
        size = scaled(tuple(cfg.model.data_preprocessor.size), factor)
        yield Setting('model.data_preprocessor', dict(size=size), 'the size of the crops')
    for split in ('train', 'val', 'test'):
        if not facts.images.get(split) and split == 'test':
            yield Setting('test_dataloader', Name('val_dataloader'))
            continue
        loader = cfg[f'{split}_dataloader']
        inner = _dataset(facts, split)
        for _ in innermost(loader.dataset)[:-1]:
            inner = dict(dataset=inner)
        found: dict[str, Any] = dict(dataset=inner)
        why = f'{facts.images[split]} images'
        if split == 'train':
            found = dict(batch_size=batch, **found)
            why += f'; {memory}'
            workers = min(cfg.train_dataloader.get('num_workers', 0), 4)
            found = dict(num_workers=workers, persistent_workers=workers > 0, **found)
        yield Setting(f'{split}_dataloader', found, why)
    for split in ('val', 'test'):
        evaluator: Any = _evaluator(facts, split, masks)
        if evaluator and split == 'test' and not facts.images.get('test'):
            evaluator = Name('val_evaluator')
        if evaluator:
            reason = 'with a table of the classes' if split == 'val' else ''
            yield Setting(f'{split}_evaluator', evaluator, reason)


class Name(str):
    """An expression, which is written without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _dataset(facts: Facts, split: str) -> dict:
    pipeline = Name('train_pipeline' if split == 'train' else 'val_pipeline')
    common = dict(_delete_=True, data_root=Name('data_root'))
    if facts.task == 'classification':
        return dict(
            **common, type='CustomDataset', data_prefix=split, with_label=True, pipeline=pipeline
        )
    common['metainfo'] = Name('metainfo')
    if facts.task == 'detection':
        test = dict(test_mode=True) if split != 'train' else {}
        return dict(
            **common,
            type='CocoDataset',
            ann_file=f'annotations/instances_{split}2017.json',
            data_prefix=dict(img=f'{split}2017/'),
            **test,
            pipeline=pipeline,
        )
    folder = dict(train='training', val='validation', test='test')[split]
    return dict(
        **common,
        type='BaseSegDataset',
        data_prefix=dict(img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}'),
        img_suffix=facts.suffix,
        seg_map_suffix='.png',
        reduce_zero_label=True,
        pipeline=pipeline,
    )


def _evaluator(facts: Facts, split: str, masks: bool) -> dict | None:
    if facts.task != 'detection':
        return None  # tables of classes are mmseg's default; top-5 of few classes is still valid
    file = Name(f"data_root + 'annotations/instances_{split}2017.json'")
    metric = ['bbox', 'segm'] if masks else ['bbox']
    return dict(_delete_=True, type='CocoMetric', ann_file=file, metric=metric, classwise=True)


def _anchors(cfg: Config, facts: Facts, factor: float) -> Iterator[Setting]:
    """Yield other anchors if they fit clearly more boxes than the recipe's."""
    heads = [name for name in ('rpn_head', 'bbox_head') if name in cfg.model]
    head: Any = cfg.model[heads[0]] if heads and facts.task == 'detection' else {}
    generator: Any = head.get('anchor_generator') or {}
    if generator.get('type') != 'AnchorGenerator' or not len(facts.boxes):
        return
    boxes = facts.boxes * factor * enlargement(facts, _recipe_scale(cfg))
    octaves = generator.get('scales_per_octave', 1)
    key = 'octave_base_scale' if 'octave_base_scale' in generator else 'scales'
    first = generator[key] if key == 'octave_base_scale' else generator[key][0]
    if key == 'scales' and len(generator[key]) > 1:
        return
    found = {}
    for base in {*ANCHORS, first}:
        steps = 2 ** (np.arange(octaves) / octaves)
        sizes = base * np.outer(generator.strides, steps).ravel()
        found[base] = covered(boxes, sizes, np.array(generator.ratios))
    best = max(found, key=lambda base: (found[base], base == first))
    if found[best] > found[first] + GAIN:
        value = best if key == 'octave_base_scale' else [best]
        reason = f'{found[best]:.0%} of the boxes have an anchor of IoU 0.5 or more, '
        reason += f"{found[first]:.0%} with the recipe's anchors"
        yield Setting(f'model.{heads[0]}', dict(anchor_generator={key: value}), reason)


def covered(boxes: np.ndarray, sizes: np.ndarray, ratios: np.ndarray) -> float:
    """Return the share of boxes with an anchor of the same centre of IoU 0.5 or more.

    Args:
        boxes: Width and height (M, 2) in pixels.
        sizes: Square roots (S,) of the areas of anchors in pixels.
        ratios: Height over width (R,) of anchors.
    """
    widths = (sizes[:, None] / np.sqrt(ratios)).ravel()
    heights = (sizes[:, None] * np.sqrt(ratios)).ravel()
    shared = np.minimum(boxes[:, :1], widths) * np.minimum(boxes[:, 1:], heights)
    union = boxes.prod(axis=1)[:, None] + widths * heights - shared
    return float(((shared / union).max(axis=1) >= 0.5).mean())


def _schedule(cfg: Config, facts: Facts, batch: int, epochs: int | None) -> Iterator[Setting]:
    """Yield the learning rate, the length of the training and its hooks."""
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size') or cfg.train_dataloader.batch_size
    rate = cfg.optim_wrapper.optimizer.lr * batch / base
    reason = f'the learning rate of the recipe, for {batch} images a step instead of {base}'
    yield Setting('optim_wrapper', dict(optimizer=dict(lr=float(f'{rate:.2g}'))), reason)
    per_epoch = math.ceil(facts.images['train'] / batch)
    loop = cfg.train_cfg
    by_epoch = 'max_epochs' in loop
    if by_epoch:
        least = max(min(loop.max_epochs, 100), math.ceil(STEPS / per_epoch))
        length = epochs or min(MAX_EPOCHS, least)
        factor, steps = length / loop.max_epochs, length * per_epoch
        interval = max(1, length // VALIDATIONS)
        found = dict(max_epochs=length, val_interval=interval)
        reason = f'{per_epoch} steps an epoch, {steps} in all'
    else:
        chosen = min(loop.max_iters, max(STEPS, 50 * per_epoch))
        length = steps = epochs * per_epoch if epochs else chosen
        factor, interval = steps / loop.max_iters, max(1, steps // VALIDATIONS)
        found = dict(max_iters=length, val_interval=interval)
        reason = f'{steps / per_epoch:.0f} times all images'
    yield Setting('train_cfg', found, reason)
    schedule = [shorten(_plain(step), factor, steps) for step in cfg.param_scheduler]
    yield Setting('param_scheduler', schedule, 'as in the recipe, for this length')
    monitor = MONITORED[facts.task].format('segm' if _uses_masks(cfg) else 'bbox')
    batches = math.ceil(facts.images['val'] / cfg.val_dataloader.batch_size)
    drawn = dict(interval=max(1, batches // PICTURES))
    drawn['enable' if facts.task == 'classification' else 'draw'] = True
    kept_best = dict(interval=interval, save_best=monitor, max_keep_ckpts=3)
    hooks = dict(checkpoint=kept_best, visualization=drawn)
    reason = f'keep the best checkpoint; draw the first images of about {PICTURES} batches'
    yield Setting('default_hooks', hooks, reason)
    kept = [_plain(hook) for hook in cfg.get('custom_hooks') or ()]
    stop = dict(type='EarlyStoppingHook', monitor=monitor, patience=PATIENCE, min_delta=0.001)
    kept = [shorten(hook, factor, steps) for hook in kept]
    reason = f'stop after {PATIENCE} validations without a better {monitor}'
    yield Setting('custom_hooks', [*kept, stop], reason)


def shorten(settings: dict, factor: float, steps: int) -> dict:
    """Return a schedule or hook for a training of another length.

    Warm-ups in steps stay, up to a tenth of the training.
    """
    found = dict(settings)
    in_steps = settings.get('by_epoch') is False
    for key in ('begin', 'end', 'T_max', 'milestones'):
        value = settings.get(key)
        if isinstance(value, list | tuple):
            found[key] = [max(1, round(each * factor)) for each in value]
        elif value and math.isfinite(value):
            warm_up = in_steps and value <= WARM_UP
            found[key] = min(value, max(2, steps // 10)) if warm_up else round(value * factor)
    for key in ('end', 'T_max'):  # of very short trainings
        if settings.get(key):
            found[key] = max(found[key], 1, found.get('begin', 0) + (key == 'end'))
    return found
