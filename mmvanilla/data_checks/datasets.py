"""From a config's data loaders to the checks that fit their data sets."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope, init_default_scope

from ..errors import UserError
from . import coco, folders, label_maps
from .findings import Finding, Report, fault
from .images import check_image

PARTS = dict(train='train_dataloader', val='val_dataloader', test='test_dataloader')

# The methods that read annotations in the formats known here; a data set may inherit them.
COCO, LABEL_MAPS, FOLDERS = READERS = (
    'CocoDataset.load_data_list',
    'BaseSegDataset.load_data_list',
    'CustomDataset.load_data_list',
)

Job = Callable[[], list[Finding]]
Track = Callable[[Iterable, str, int], Iterable]


class Listing(NamedTuple):
    """What a data set's annotations tell: findings, and the checks of its files still to do."""

    findings: list[Finding]
    jobs: list[Job]


def check_paths(cfg: Config, parts: Iterable[str] = PARTS) -> None:
    """Check that the annotation files and image folders of a config's data sets are there.

    Raises:
        UserError: If one is missing; the message says which and for which data loader.
    """
    for part in parts:
        for dataset in filter(_is_local, _unwrap(cfg.get(PARTS[part]))):
            prefixes = dataset.get('data_prefix') or {}
            prefixes = prefixes.values() if isinstance(prefixes, dict) else [prefixes]
            for path in filter(None, [dataset.get('ann_file'), *prefixes]):
                path = os.path.join(dataset.get('data_root') or '', path)
                if '://' not in path and not os.path.exists(path):
                    raise UserError(
                        f'{PARTS[part]} looks for {path!r}, which does not exist; put the data '
                        'there or set data_root, as --data-root of the tools does'
                    )


def check_annotations(cfg: Config, parts: Iterable[str] = ('train', 'val')) -> None:
    """Check the annotations of a config's data sets, but no image, before training.

    Data sets that are not on a local disk or of a type that is not known here are passed over.

    Raises:
        UserError: At the first error, other than a remark.
    """
    known = [
        (part, dataset)
        for part, dataset in find_datasets(cfg, parts)
        if _is_local(dataset) and reader_of(cfg, dataset) in READERS
    ]
    for part, dataset, listing in _listings(cfg, known):
        for finding in listing.findings:
            if finding.kind.error:
                raise UserError(
                    f'the data of {part} have an error ({finding.kind.name}: {finding.where}); '
                    'correct them, tools/check_data.py lists all that it finds'
                )
        _check_number(cfg, part, dataset)


def _check_number(cfg: Config, part: str, dataset: ConfigDict) -> None:
    """Compare the number of a data set's classes with that of a classifier's head."""
    expected = (cfg.get('model', {}).get('head') or {}).get('num_classes')
    if expected is None or reader_of(cfg, dataset) != FOLDERS:
        return
    classes = _build(cfg, dataset).CLASSES or class_folders(cfg, dataset)
    if classes and len(classes) != expected:
        raise UserError(
            f'the data of {part} have {len(classes)} classes, but model.head.num_classes is '
            f'{expected}; set model.head.num_classes={len(classes)} and '
            f'model.data_preprocessor.num_classes={len(classes)}'
        )


def check_datasets(
    cfg: Config, decode: bool = False, workers: int = 1, track: Track | None = None
) -> tuple[Report, int]:
    """Check all data sets of a config, annotations and files.

    Args:
        cfg: The config of mmdet, mmseg or mmpretrain.
        decode: Whether to decode every image, which takes longer.
        workers: Number of threads.
        track: Wraps an iterable of files for a progress bar; takes a description and their number.

    Returns:
        The findings, and the number of files checked.

    Raises:
        UserError: If a data set is of a type that is not known here.
    """
    report, count = Report(), 0
    for part, _, listing in _listings(cfg, find_datasets(cfg), decode):
        with ThreadPoolExecutor(workers) as pool:
            found: Iterable = pool.map(lambda job: job(), listing.jobs)
            found = track(found, part, len(listing.jobs)) if track else found
            for findings in chain([listing.findings], found):
                for finding in findings:
                    report.add(part, finding)
        count += len(listing.jobs)
    return report, count


def _listings(
    cfg: Config, datasets: Iterable[tuple[str, ConfigDict]], decode: bool = False
) -> Iterator[tuple[str, ConfigDict, Listing]]:
    """List each data set, and compare its class folders with those of training."""
    training: list[str] = []
    for part, dataset in datasets:
        listing = list_files(cfg, dataset, decode)
        names = class_folders(cfg, dataset)
        training = training or names or []
        if names and names != training:
            missing, new = sorted(set(training) - set(names)), sorted(set(names) - set(training))
            where = f'{len(names)} for {len(training)}, '
            where += f'without {missing[0]!r}' if missing else f'with {new[0]!r}'
            kind = 'class folders other than those of training'
            listing.findings.append(fault(kind, where, 'mixes the labels up'))
        yield part, dataset, listing


def find_datasets(cfg: Config, parts: Iterable[str] = PARTS) -> list[tuple[str, ConfigDict]]:
    """Data sets without the wrappers around them, each once, named by where they are used."""
    found: list[tuple[str, ConfigDict]] = []
    for part in parts:
        for dataset in _unwrap(cfg.get(PARTS[part])):
            same = next((i for i, (_, other) in enumerate(found) if other == dataset), None)
            if same is None:
                found.append((part, dataset))
            else:
                found[same] = f'{found[same][0]}, {part}', dataset
    return found


def _unwrap(node: object) -> Iterator[ConfigDict]:
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _unwrap(child)
    elif isinstance(node, dict):
        inner = node.get('dataset') or node.get('datasets')
        if inner:
            yield from _unwrap(inner)
        else:
            yield node


def _is_local(dataset: ConfigDict) -> bool:
    """Tell whether a data set's files are where they can be looked at."""
    paths = f'{dataset.get("data_root")} {dataset.get("ann_file")}'
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    return backend == 'local' and '://' not in paths


def list_files(cfg: Config, config: ConfigDict, decode: bool = False) -> Listing:
    """Check the annotations of a data set, and say which files are to be checked.

    Raises:
        UserError: If the data set is of a type that is not known here.
    """
    reader = reader_of(cfg, config)
    if reader not in READERS:
        raise UserError(
            f'data sets of type {config["type"]} cannot be checked; expected CocoDataset of mmdet, '
            'BaseSegDataset of mmseg, CustomDataset of mmpretrain, or one that reads as these do'
        )
    dataset = _build(cfg, config)
    steps = config.get('pipeline', [])
    loads = [step for step in steps if 'LoadImage' in str(step['type'])]
    color = loads[0].get('color_type', 'color') if loads else 'color'
    image = partial(check_image, decode=decode, turn=color in ('color', 'grayscale'))
    if reader == COCO:
        masks = any(step.get('with_mask') for step in steps)
        return _list_coco(dataset, masks, image)
    return (_list_label_maps if reader == LABEL_MAPS else _list_folders)(dataset, image)


def reader_of(cfg: Config, config: ConfigDict) -> str:
    """Name of the method that reads a data set's annotations, without importing its framework.

    That of COCO's is told only of data sets that also parse them as mmdet's own does.
    """
    _enter_scope(cfg)
    kind = config['type']
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    methods = (getattr(kind, name, None) for name in ('load_data_list', 'parse_data_info'))
    reads, parses = (getattr(method, '__qualname__', '') for method in methods)
    return '' if reads == COCO and parses != 'CocoDataset.parse_data_info' else reads


def _enter_scope(cfg: Config) -> None:
    """Enter a config's scope; without one, mmdet's, unless a runner has set one."""
    if cfg.get('default_scope') or DefaultScope.get_current_instance() is None:
        init_default_scope(cfg.get('default_scope') or 'mmdet')


def class_folders(cfg: Config, config: ConfigDict) -> list[str] | None:
    """Names of a data set's class folders, None if it has none.

    Raises:
        FileNotFoundError: If the folder of these folders is missing.
    """
    if reader_of(cfg, config) != FOLDERS:
        return None
    dataset = _build(cfg, config)
    if dataset.ann_file:
        return None
    return sorted(entry.name for entry in os.scandir(dataset.img_prefix) if entry.is_dir())


def _build(cfg: Config, config: ConfigDict) -> Any:
    """Build a data set that reads nothing yet."""
    _enter_scope(cfg)
    return DATASETS.build(dict(config, pipeline=[], lazy_init=True))


def _list_coco(dataset: Any, with_mask: bool, image: partial) -> Listing:
    document = coco.read_coco(dataset.ann_file)
    if isinstance(document, Finding):
        return Listing([document], [])
    options = dataset.filter_cfg or {}
    filters = options.get('filter_empty_gt', False), options.get('min_size', 0)
    classes, folder = dataset.metainfo['classes'], dataset.data_prefix['img']
    findings = coco.check_coco(document, classes, with_mask, dataset.test_mode, *filters)
    jobs: list[Job] = [
        partial(image, os.path.join(folder, entry['file_name']), (entry['width'], entry['height']))
        for entry in document['images']
        if coco.complete_image(entry)
    ]
    return Listing(list(findings), jobs)


def _list_label_maps(dataset: Any, image: partial) -> Listing:
    entries = dataset.load_data_list()
    # Where the config takes only some of a data set's classes, the files have labels of all.
    classes = dataset.METAINFO['classes'] if dataset.label_map else dataset.metainfo['classes']
    options = len(classes), dataset.reduce_zero_label, image.keywords['turn']
    jobs: list[Job] = []
    for entry in entries:
        path = entry['img_path']
        jobs.append(partial(image, path))
        if 'seg_map_path' in entry:
            jobs.append(partial(label_maps.check_label_map, entry['seg_map_path'], path, *options))
    where = f'no *{dataset.img_suffix} in {dataset.data_prefix.get("img_path")}'
    return Listing([] if entries else [fault('nothing to train or test on', where)], jobs)


def _list_folders(dataset: Any, image: partial) -> Listing:
    root, classes = dataset.img_prefix, dataset.CLASSES
    if dataset.ann_file:
        files, findings = folders.check_list(dataset.ann_file, root, classes)
    else:
        files, findings = folders.check_folders(root, classes, dataset.extensions)
    return Listing(findings, [partial(image, file) for file in files])
