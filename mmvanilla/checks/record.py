"""Records of configs, checkpoints, data sets, evaluators and exported files, compared."""

import ast
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from mmengine.registry import DATASETS, DefaultScope

from ..type_name import scope, type_name, walk
from .documents import read_json
from .findings import Finding

SIZES = ('Resize', 'Crop', 'Pad')  # in the names of steps that decide the size of an image
CHANNELS = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')  # arguments that swap the channels


@dataclass(frozen=True)
class Record:
    """Plain facts about a model or its data; None and a missing setting are unknown.

    Attributes:
        name: The name of the source in messages.
        classes: The class names in the order of the labels.
        settings: Numbers and texts by names with dots: ``preprocessing`` (of the channels),
            ``sizes`` (of tested images), ``test_cfg``, ``optimizer``, ``schedule`` and
            ``teacher``.
        categories: Category names by id, in the order of the labels.
        images: File name without suffix, height and width of each image, by id.
        objects: The number of objects of each image that has any, by id.
    """

    name: str = ''
    classes: list | None = None
    settings: Mapping = field(default_factory=dict)
    categories: dict | None = None
    images: dict | None = None
    objects: dict | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of a model, for JSON and checkpoints."""
        return dict(classes=self.classes, settings=dict(self.settings))

    @classmethod
    def from_dict(cls, values: Mapping, name: str = '') -> 'Record':
        """Return the record that ``to_dict`` wrote, or that a stranger did."""
        settings = dict(_flat(_dict(values.get('settings'))))
        return cls(name, _texts(values.get('classes')), settings)


def record_of_config(cfg: Any, split: str = 'train', name: str = 'the config') -> Record:
    """Return the record of a config; its classes are those of a split, or of the next it has."""
    classes, dataset = None, _datasets(cfg, split)[-1]
    # The run itself will say what is wrong with a data set.
    with suppress(Exception), DefaultScope.overwrite_default_scope(scope(cfg)):
        kind = dataset['type']
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind) if isinstance(kind, str) else kind
        classes = _texts(_named(dataset) or getattr(kind, 'METAINFO', {}).get('classes'))
        if not classes:  # a file or folders have them
            built = DATASETS.build(dict(dataset, lazy_init=True))
            from torchvision.datasets.folder import find_classes

            classes = _texts(built.metainfo.get('classes')) or find_classes(built.img_prefix)[0]
    return Record(name, None if dataset.get('return_classes') else classes, _settings(cfg))


def record_of_checkpoint(checkpoint: Mapping, name: str = 'the checkpoint') -> Record:
    """Return the record in a checkpoint, or what an older one says; no text in it is run."""
    meta = _dict(checkpoint.get('meta'))
    if isinstance(meta.get('record'), Mapping):
        return Record.from_dict(meta['record'], name)
    data = {**meta, **_dict(meta.get('dataset_meta'))}
    texts = (meta.get(key) for key in ('config_text', 'cfg', 'config'))
    cfg = read_literals(next((text for text in texts if isinstance(text, str)), ''))
    classes = data.get('classes', data.get('CLASSES')) or _named(_datasets(cfg, 'train')[-1])
    return Record(name, _texts(classes), _settings(cfg))


def record_of_exported(metadata: Mapping, name: str = 'the exported file') -> Record:
    """Return the record in an exported file; an older one has the classes only."""
    return Record.from_dict(_dict(metadata.get('record')) or metadata, name)


def record_of_dataset(dataset: Any, images: bool = True, name: str = 'the data set') -> Record:
    """Return the record of a built data set, with its images and objects if asked for."""
    classes = _texts(_dict(getattr(dataset, 'metainfo', None)).get('classes'))
    ids = getattr(dataset, 'cat_ids', None) or ()
    categories = None
    if classes and len(ids) == len(classes):
        categories = dict(zip(ids, classes, strict=True))
    if getattr(dataset, 'return_classes', False):  # the model gets their names
        classes = None
    if folders := getattr(dataset, 'folder_to_idx', None):  # they may have other names
        classes = list(folders)
    found = (_images(dataset), _objects(dataset)) if images else (None, None)
    return Record(name, classes, {}, categories, *found)


def record_of_evaluator(metric: Any, dataset: Any = None) -> Record:
    """Return the record of the file in COCO's format that a metric's config names, if it does.

    Args:
        metric: The config.
        dataset: The data set. Only objects of its classes count, and a file that it has loaded is
            not read again.
    """
    name = "the evaluator's annotation file"
    with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):  # no such file
        file, own = metric['ann_file'], getattr(dataset, 'ann_file', None)
        if own and os.path.realpath(own) == os.path.realpath(file):
            return Record(name, objects=_objects(dataset))
        content = read_json(file)
        categories = {each['id']: each['name'] for each in content['categories']}
        classes = getattr(dataset, 'metainfo', {}).get('classes', categories.values())
        objects: Counter = Counter()
        for each in content['annotations']:  # a panoptic one has several objects
            for part in each.get('segments_info', [each]):
                objects[each['image_id']] += categories.get(part['category_id']) in classes
        images = {image['id']: _image(image) for image in content['images']}
        return Record(name, None, {}, categories, images, dict(+objects))
    return Record(name)


def compare(first: Record, second: Record, door: str) -> list[Finding]:
    """Compare two records where they meet.

    Args:
        first: A checkpoint, an exported file, a data set or the training data.
        second: The config, evaluator or validation data that it is used with.
        door: A key of ``DOORS``.

    Returns:
        A sentence for each rule of the door that finds a difference, with the first one.
    """
    findings: dict[str, Finding] = {}
    for refuse, advice, rules in DOORS[door]:
        for rule in rules:
            text = _setting(first, second, rule) if isinstance(rule, str) else rule(first, second)
            if text:
                certain = rule is _missing_images  # pycocotools raises an error
                findings.setdefault(text, Finding(f'{text}; {advice}', refuse, certain))
    return list(findings.values())


def compare_evaluator(dataset: Any, evaluator: Any) -> list[Finding]:
    """Compare a built data set with the annotation files of an evaluator's config."""
    if type_name(evaluator) == 'MultiDatasetsEvaluator':
        pairs = zip(dataset.datasets, evaluator['metrics'], strict=False)
        return [finding for pair in pairs for finding in compare_evaluator(*pair)]
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    records = [record_of_evaluator(metric, dataset) for metric in metrics]
    records = [record for record in records if record.images or record.objects]
    own = record_of_dataset(dataset, images=bool(records))
    return [finding for record in records for finding in compare(own, record, 'evaluator')]


def _other_classes(first: Record, second: Record) -> str:
    ours, others = first.classes, second.classes
    if ours and others and len(ours) != len(others):
        return f'{first.name} has {len(ours)} classes and {second.name} {len(others)}'
    return _renamed_classes(first, second)


def _renamed_classes(first: Record, second: Record) -> str:
    ours, others = first.classes or [], second.classes or []
    for i, (own, other) in enumerate(zip(ours, others, strict=False)):
        if own != other and len(ours) == len(others):
            return f'class {i} is {own!r} in {first.name} and {other!r} in {second.name}'
    return ''


def _reordered_classes(first: Record, second: Record) -> str:
    same = first.classes and second.classes and sorted(first.classes) == sorted(second.classes)
    return _renamed_classes(first, second) if same else ''


def _setting(first: Record, second: Record, group: str) -> str:
    ours, others = (
        {key: value for key, value in record.settings.items() if key.startswith(group)}
        for record in (first, second)
    )
    for key in {**ours, **others} if ours and others else ():
        if ours.get(key) != others.get(key):
            own, other = (repr(each[key]) if key in each else 'not set' for each in (ours, others))
            return f'{key} is {own} in {first.name} and {other} in {second.name}'
    return ''


def _other_teacher(first: Record, second: Record) -> str:
    ours, others = (record.settings.get('teacher') for record in (first, second))
    text = f'the teacher is {ours} in {first.name} and {others} in {second.name}'
    return text * (ours != others)


def _no_settings(first: Record, second: Record) -> str:
    if first.settings or not second.settings:
        return ''
    return f'{first.name} is older and does not say its preprocessing and thresholds'


def _other_categories(first: Record, second: Record) -> str:
    ours, others = (list((record.categories or {}).items()) for record in (first, second))
    known = {name for _, name in ours}
    pairs = zip_longest(ours, [each for each in others if each[1] in known])
    for i, (own, other) in enumerate(pairs if others else ()):
        if own != other:
            return f'label {i} is category {own} in {first.name} and {other} in {second.name}'
    return ''


def _missing_images(first: Record, second: Record) -> str:
    ours, others = first.images or {}, second.images or {}
    missing = [i for i in ours if i not in others] if others else []
    if not missing:
        return ''
    numbers = f'{len(missing)} of {len(ours)}'
    return f'{numbers} images of {first.name} (id {missing[0]!r}) are not in {second.name}'


def _other_images(first: Record, second: Record) -> str:
    ours, others = first.images or {}, second.images or {}
    for i, own in ours.items():
        pairs = zip(own, others.get(i, own), strict=True)
        if any(None not in pair and pair[0] != pair[1] for pair in pairs):
            return f'image {i!r} is {own} in {first.name} and {others[i]} in {second.name}'
    return ''


def _other_objects(first: Record, second: Record) -> str:
    if not first.images or second.objects is None:
        return ''
    if extra := second.objects.keys() - first.images.keys():
        return f'{second.name} has {len(extra)} images with objects that {first.name} does not have'
    both = (first.objects or second.objects, second.objects)
    ours, others = (sum(found.get(i, 0) for i in first.images) for found in both)
    return f'{first.name} has {ours} objects and {second.name} {others}' * (ours != others)


_INTENDED = 'make them equal unless this is intended'
_EXPORTED = 'use the config that it was exported with, or export it again'
_RESUMED = "the config's settings hold from the resumed iteration on"
_START = 'start from its weights with load_from instead of resuming'
_FILE = 'give the evaluator the annotation file of the data set'
# Rules by door: refused or not, advice, and the comparison (a function or group of settings).
DOORS: dict[str, list[tuple[bool, str, list]]] = dict(
    load_from=[(False, _INTENDED, [_renamed_classes, 'preprocessing'])],
    resume=[
        (True, _START, [_other_classes, 'optimizer.type']),
        (False, _RESUMED, ['preprocessing', 'optimizer', 'schedule', _other_teacher]),
    ],
    test=[
        (True, 'use the config that it was trained with', [_other_classes, 'preprocessing']),
        (False, _INTENDED, ['sizes', 'test_cfg']),
    ],
    exported=[
        (True, _EXPORTED, [_other_classes, 'preprocessing', 'test_cfg']),
        (False, _EXPORTED, ['sizes']),
        (False, 'export it again', [_no_settings]),
    ],
    evaluator=[
        (True, _FILE, [_missing_images, _other_images, _other_categories]),
        (False, _FILE, [_other_objects]),
    ],
    teacher=[
        (True, 'use a teacher of the same labels, or compare features', [_reordered_classes]),
        (False, _INTENDED, [_renamed_classes]),
    ],
    data=[(True, 'give both data sets the same classes in the same order', [_other_classes])],
)


def read_literals(text: str) -> dict[str, Any]:
    """Read the settings of a config's text without running it; anything but literals is None."""

    def value(node: ast.AST | None) -> Any:
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
            return {word.arg: value(word.value) for word in node.keywords}
        if isinstance(node, ast.Dict):
            return {value(k): value(v) for k, v in zip(node.keys, node.values, strict=True)}
        if isinstance(node, ast.List | ast.Tuple):
            return [value(child) for child in node.elts]
        try:
            return ast.literal_eval(node)  # type: ignore[arg-type]
        except ValueError:
            return None

    with suppress(SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        lines = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
        return {getattr(line.targets[0], 'id', ''): value(line.value) for line in lines}
    return {}


def _settings(cfg: Any) -> dict[str, Any]:
    """Return the settings of a config, or of its text as far as it was read."""
    model, wrapper, train = (_dict(cfg.get(k)) for k in ('model', 'optim_wrapper', 'train_cfg'))
    prepare = _dict(model.get('data_preprocessor') or cfg.get('data_preprocessor'))
    prepare = _dict(prepare.get('data_preprocessor')) or prepare  # of several branches
    nodes = _datasets(cfg, 'test')
    steps = [s for node in reversed(nodes) for s in node.get('pipeline') or []]
    steps = [step for step in steps if any(word in type_name(step) for word in SIZES)]
    optimizer = {name: wrapper.get(name) for name in ('accumulative_counts', 'paramwise_cfg')}
    schedule = {key: value for key, value in train.items() if str(key).startswith('max_')}
    groups = dict(
        preprocessing=prepare
        and dict(
            mean=prepare.get('mean') or 'none',
            std=prepare.get('std') or 'none',
            channels='swapped' if any(map(prepare.get, CHANNELS)) else 'as loaded',
        ),
        sizes=any(nodes) and dict(steps=steps, pad_size_divisor=prepare.get('pad_size_divisor')),
        test_cfg=model.get('test_cfg'),
        optimizer=dict(_dict(wrapper.get('optimizer')), **optimizer),
        schedule=dict(schedule, scheduler=cfg.get('param_scheduler')),
        teacher=_teacher(cfg),
    )
    return dict(_flat({name: group or {} for name, group in groups.items()}))


def _teacher(cfg: Any) -> str:
    """Return the name of the teacher's config, or else the type of its model; '' if none."""
    hooks = walk([cfg.get('default_hooks'), cfg.get('custom_hooks')])
    # A text read as far as possible may have None as a type.
    hooks = (hook for hook in hooks if isinstance(hook.get('type'), str | type))
    teachers = [hook.get('teacher') for hook in hooks if type_name(hook) == 'DistillHook']
    teacher = teachers[0] if teachers else ''
    return teacher if isinstance(teacher, str) else type_name(teacher)


def _flat(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts in nested settings, under names with dots."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, child in value.items():
            child = type_name(value) if key == 'type' else child
            yield from _flat(child, f'{name}.{key}' if name else str(key))
    elif isinstance(value, bool | int | float | str):
        yield name, value


def _datasets(cfg: Any, split: str) -> list[Mapping]:
    """Return the config of a split's first data set, after the wrappers around it."""
    loaders = (cfg.get(f'{each}_dataloader') for each in (split, 'test', 'val', 'train'))
    node: Any = _dict(_first(next(filter(None, loaders), None))).get('dataset')
    path = []
    while isinstance(node := _first(node), Mapping):
        path.append(node)
        node = node.get('dataset') or node.get('datasets')
    return path or [{}]


def _named(dataset: Mapping) -> Any:
    """Return the classes that the config of a data set names, perhaps by a file."""
    return _dict(dataset.get('metainfo')).get('classes') or dataset.get('classes')


def _image(info: Mapping) -> list:
    """Return the name without folder and suffix, height and width of an image, None if unknown."""
    names = (info.get(key) for key in ('img_path', 'file_name', 'coco_url'))
    path = next((name for name in names if isinstance(name, str)), None)
    stem = path and os.path.splitext(os.path.basename(path))[0]
    return [stem, info.get('height') or None, info.get('width') or None]


def _images(dataset: Any) -> dict | None:
    """Return the images of a built data set; None if its items have no ids of their own."""
    images: dict = {}
    for i in range(len(dataset)) if hasattr(dataset, 'get_data_info') else ():
        info = dataset.get_data_info(i)
        image = _image(info)
        if info.get('img_id') is None or images.setdefault(info['img_id'], image) != image:
            return None
    return images or None


def _objects(dataset: Any) -> dict | None:
    """Return the number of objects on each image of the file that a data set has loaded."""
    images, ids = (getattr(dataset, name, None) for name in ('cat_img_map', 'cat_ids'))
    if not isinstance(images, Mapping) or not isinstance(ids, list):
        return None
    return dict(Counter(image for category in ids for image in images.get(category, ())))


def _dict(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _texts(value: Any) -> list[str] | None:
    known = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    return list(value) or None if known else None


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list | tuple) else value
