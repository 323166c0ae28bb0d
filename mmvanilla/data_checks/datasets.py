"""From a config's data loaders to the checks that fit their data sets."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope

from ..errors import UserError
from . import coco, folders, label_maps
from .findings import Finding, Kind, Report
from .images import check_image

PARTS = dict(train='train_dataloader', val='val_dataloader', test='test_dataloader')

EMPTY = Kind('nothing to train or test on', 'stops')
CLASSES_DIFFER = Kind('class folders other than those of training', 'mixes the labels up')

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


def check_annotations(cfg: Config, parts: Iterable[str] = ('train', 'val')) -> None:
    """Check the annotations of a config's data sets, but no image, before training.

    Raises:
        UserError: At the first error, other than a remark.
    """
    training = None
    for part, dataset in find_datasets(cfg, parts):
        if reader_of(cfg, dataset) not in READERS:
            continue
        names = class_folders(cfg, dataset)
        training = training or names
        findings = [*list_files(cfg, dataset).findings, *compare_folders(names, training)]
        for finding in findings:
            if finding.kind.error:
                raise UserError(
                    f'the data of {part} have an error ({finding.kind.name}: {finding.where}); '
                    'correct them, tools/check_data.py lists all that it finds'
                )
        check_number(cfg, part, dataset, names)


def check_number(cfg: Config, part: str, dataset: ConfigDict, folders: list[str] | None) -> None:
    """Compare the number of a data set's classes with that of a classifier's head.

    Raises:
        UserError: If they differ.
    """
    expected = (cfg.get('model', {}).get('head') or {}).get('num_classes')
    if expected is None or reader_of(cfg, dataset) != FOLDERS:
        return
    classes = _build(cfg, dataset).CLASSES or folders
    if classes and len(classes) != expected:
        raise UserError(
            f'the data of {part} have {len(classes)} classes, but model.head.num_classes is '
            f'{expected}; set model.head.num_classes={len(classes)} and '
            f'model.data_preprocessor.num_classes={len(classes)}'
        )


def compare_folders(names: list[str] | None, training: list[str] | None) -> list[Finding]:
    """Compare the names of a data set's class folders with those of training."""
    if not names or not training or names == training:
        return []
    missing, new = sorted(set(training) - set(names)), sorted(set(names) - set(training))
    detail = f'without {missing[0]!r}' if missing else f'with {new[0]!r}'
    return [Finding(CLASSES_DIFFER, f'{len(names)} for {len(training)}, {detail}')]


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
    report, count, training = Report(), 0, None
    for part, dataset in find_datasets(cfg):
        listing = list_files(cfg, dataset, decode)
        for finding in listing.findings:
            report.add(part, finding)
        names = class_folders(cfg, dataset)
        training = training or names
        for finding in compare_folders(names, training):
            report.add(part, finding)
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda job: job(), listing.jobs)
            for findings in track(found, part, len(listing.jobs)) if track else found:
                for finding in findings:
                    report.add(part, finding)
        count += len(listing.jobs)
    return report, count


def find_datasets(cfg: Config, parts: Iterable[str] = PARTS) -> list[tuple[str, ConfigDict]]:
    """Data sets without the wrappers around them, each once, named by where they are used."""
    found: list[tuple[str, ConfigDict]] = []
    for part in parts:
        loader = cfg.get(PARTS[part]) or {}
        for dataset in _unwrap(loader.get('dataset')):
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
    color = next((s.get('color_type', 'color') for s in steps if 'LoadImage' in s['type']), 'color')
    image = partial(check_image, decode=decode, turn=color in ('color', 'grayscale'))
    if reader == COCO:
        masks = any(step.get('with_mask') for step in steps)
        return _list_coco(dataset, masks, image)
    return (_list_label_maps if reader == LABEL_MAPS else _list_folders)(dataset, image)


def reader_of(cfg: Config, config: ConfigDict) -> str:
    """Name of the method that reads a data set's annotations, without importing its framework.

    That of COCO's is told only of data sets that also parse them as mmdet's own does.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    kind = config['type']
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    names = [
        getattr(getattr(kind, method, None), '__qualname__', '')
        for method in ('load_data_list', 'parse_data_info')
    ]
    return '' if names[0] == COCO and names[1] != 'CocoDataset.parse_data_info' else names[0]


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


def _build(cfg: Config, config: ConfigDict) -> object:
    """Build a data set that reads nothing yet."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    return DATASETS.build(dict(config, pipeline=[], lazy_init=True))


def _list_coco(dataset: object, with_mask: bool, image: Callable) -> Listing:
    document = coco.read_coco(dataset.ann_file)
    if isinstance(document, Finding):
        return Listing([document], [])
    options = dataset.filter_cfg or {}
    findings = coco.check_coco(
        document,
        dataset.metainfo['classes'],
        with_mask,
        dataset.test_mode,
        options.get('filter_empty_gt', False),
        options.get('min_size', 0),
    )
    folder = dataset.data_prefix['img']
    jobs = [
        partial(image, os.path.join(folder, entry['file_name']), (entry['width'], entry['height']))
        for entry in document['images']
        if coco.complete_image(entry)
    ]
    return Listing(list(findings), jobs)


def _list_label_maps(dataset: object, image: Callable) -> Listing:
    entries = dataset.load_data_list()
    # Where the config takes only some of a data set's classes, the files have labels of all.
    classes = dataset.METAINFO['classes'] if dataset.label_map else dataset.metainfo['classes']
    jobs = []
    for entry in entries:
        jobs.append(partial(image, entry['img_path']))
        if 'seg_map_path' in entry:
            jobs.append(
                partial(
                    label_maps.check_label_map,
                    entry['seg_map_path'],
                    entry['img_path'],
                    len(classes),
                    dataset.reduce_zero_label,
                    image.keywords['turn'],
                )
            )
    folder = dataset.data_prefix.get('img_path')
    return Listing(
        [] if entries else [Finding(EMPTY, f'no *{dataset.img_suffix} in {folder}')], jobs
    )


def _list_folders(dataset: object, image: Callable) -> Listing:
    if dataset.ann_file:
        files, findings = folders.check_list(dataset.ann_file, dataset.img_prefix, dataset.CLASSES)
    else:
        files, findings = folders.check_folders(
            dataset.img_prefix, dataset.CLASSES, dataset.extensions
        )
    return Listing(findings, [partial(image, file) for file in files])
