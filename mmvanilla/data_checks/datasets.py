"""From a config's data loaders to the checks that fit their data sets."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope, init_default_scope

from ..errors import UserError, sentence
from ..type_name import scope, type_name
from . import coco, folders, label_maps
from .findings import Finding, Report, fault, remark
from .images import check_image
from .loading import check_reduce_zero_label
from .metainfo import check_metainfo

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
    """What a data set's annotations tell: findings, and the checks of its files still to do.

    The last one is done after all others.
    """

    findings: list[Finding]
    jobs: list[Job]
    last: Job = list


def check_paths(cfg: Config, parts: Iterable[str] = PARTS) -> None:
    """Check that the annotation files and image folders of a config's data sets are there.

    Raises:
        UserError: If one is missing; the message says which and for which data loader.
    """
    for part in parts:
        for dataset in filter(_is_local, _unwrap(cfg.get(PARTS[part]))):
            prefixes = dataset.get('data_prefix') or {}
            prefixes = prefixes.values() if isinstance(prefixes, Mapping) else [prefixes]
            for path in [dataset.get('ann_file'), *prefixes]:
                if not path or not isinstance(path, str):
                    continue  # whether it may be that depends on the type of the data set
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
            for findings in chain([listing.findings], found, (job() for job in [listing.last])):
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
        listing = list_files(cfg, part, dataset, decode)
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
            elif part not in found[same][0]:
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


def list_files(cfg: Config, part: str, config: ConfigDict, decode: bool = False) -> Listing:
    """Check the annotations of a data set, and say which files are to be checked.

    Raises:
        UserError: If the data set is of a type that is not known here, or its config has a mistake.
    """
    reader = reader_of(cfg, config)
    if reader not in READERS:
        raise UserError(
            f'data sets of type {type_name(config)} cannot be checked; expected CocoDataset of '
            'mmdet, BaseSegDataset of mmseg, CustomDataset of mmpretrain, or one that reads as '
            'these do'
        )
    where = f"{part}'s data set {type_name(config)}"
    _check_kinds(where, config, reader)
    check_metainfo(where, config, optional=reader == FOLDERS)
    with _naming(where):
        dataset = _build(cfg, config)
    steps = list(_walk(config.get('pipeline')))
    loads = [step for step in steps if 'LoadImage' in type_name(step)]
    load = loads[0] if loads else {}
    image = partial(
        check_image,
        decode=decode,
        turn=load.get('color_type', 'color') in ('color', 'grayscale'),
        backend=load.get('imdecode_backend') or 'cv2',
    )
    with _naming(where):
        if reader == COCO:
            nodes = [cfg.get(f'{name}_evaluator') for name in part.split(', ')]
            metrics = [node for node in _walk(nodes) if type_name(node) == 'CocoMetric']
            return _list_coco(dataset, config, part, metrics, image)
        if reader == LABEL_MAPS:
            return _list_label_maps(dataset, config, cfg.get('model') or {}, image)
        return _list_folders(dataset, config, image)


def _check_kinds(where: str, config: Mapping, reader: str) -> None:
    """Check that the paths of a data set's config are texts, in a dict where that is expected."""
    file = config.get('ann_file', '')
    if not isinstance(file, str):
        raise UserError(
            f'ann_file of {where} is {file!r}, expected a text; for several files join several '
            'data sets in a ConcatDataset'
        )
    needed = {COCO: 'img', LABEL_MAPS: 'img_path'}.get(reader)
    prefix = config.get('data_prefix')
    if 'data_prefix' not in config or (isinstance(prefix, str) and not needed):
        return
    if (
        not isinstance(prefix, Mapping)
        or not all(isinstance(path, str) for path in prefix.values())
        or (needed and needed not in prefix)
    ):
        raise UserError(
            f'data_prefix of {where} is {prefix!r}, expected dict({needed or "img_path"}=...) with '
            'folders as texts'
        )


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say at which data set's config a framework stumbles."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'{where} cannot be set up ({type(error).__name__}: {sentence(error)}); correct its '
            'config'
        ) from error


def _walk(node: object) -> Iterator[Mapping]:
    """All steps of a pipeline, those within steps too."""
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _walk(child)
    elif isinstance(node, Mapping):
        yield node
        yield from _walk(list(node.values()))


def reader_of(cfg: Config, config: ConfigDict) -> str:
    """Name of the method that reads a data set's annotations, without importing its framework.

    That of COCO's is told only of data sets that also parse them as mmdet's own does.
    """
    _enter_scope(cfg)
    kind = config.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    methods = (getattr(kind, name, None) for name in ('load_data_list', 'parse_data_info'))
    reads, parses = (getattr(method, '__qualname__', '') for method in methods)
    return '' if reads == COCO and parses != 'CocoDataset.parse_data_info' else reads


def _enter_scope(cfg: Config) -> None:
    """Enter a config's scope; without one, its library's, unless a runner has set one."""
    if cfg.get('default_scope') or DefaultScope.get_current_instance() is None:
        init_default_scope(scope(cfg))


def class_folders(cfg: Config, config: ConfigDict) -> list[str] | None:
    """Names of a data set's class folders, None if it has none.

    Raises:
        FileNotFoundError: If the folder of these folders is missing.
    """
    if reader_of(cfg, config) != FOLDERS:
        return None
    dataset = _build(cfg, config)
    if dataset.ann_file or not dataset.with_label:
        return None
    return sorted(entry.name for entry in os.scandir(dataset.img_prefix) if entry.is_dir())


def _build(cfg: Config, config: ConfigDict) -> Any:
    """Build a data set that reads nothing yet."""
    _enter_scope(cfg)
    return DATASETS.build(dict(config, pipeline=[], lazy_init=True))


def _list_coco(
    dataset: Any, config: ConfigDict, part: str, metrics: list[Mapping], image: partial
) -> Listing:
    """List a data set in COCO's format, which is used in a part and scored by CocoMetrics."""
    if 'img' not in dataset.data_prefix:  # as is the default
        raise UserError(
            f'data_prefix of the data set of {part} is {dataset.data_prefix}, expected '
            "dict(img='the folder of the images')"
        )
    classes = dataset.metainfo['classes']
    options = {} if dataset.test_mode else dataset.filter_cfg or {}
    filters = options.get('filter_empty_gt', False), options.get('min_size', 0)
    document = coco.read_coco(dataset.ann_file)
    if isinstance(document, Finding):
        return Listing([document], [])
    files = {os.path.realpath(metric['ann_file']) for metric in metrics if metric.get('ann_file')}
    own = os.path.realpath(dataset.ann_file)
    uses = {file: _use(file, part, metrics, config) for file in (own, *files)}
    findings = list(coco.check_coco(document, classes, False, *filters, uses.pop(own)))
    for file, use in uses.items():  # a metric may score with another file
        truth = coco.read_coco(file)
        findings += (
            [truth] if isinstance(truth, Finding) else coco.check_coco(truth, classes, use=use)
        )
    palette = dataset.metainfo.get('palette')
    if isinstance(palette, list) and len(palette) < len(classes):
        where = f'{len(palette)} colours for {len(classes)} classes'
        training = 'needs none, but drawing stops'
        findings.append(remark('palette shorter than the classes', where, training))
    entries = [entry for entry in document['images'] if coco.complete_image(entry)]
    if config.get('indices') is not None:
        entries = _subset(coco.kept_images(document, classes, *filters), config, findings)
    folder = dataset.data_prefix['img']
    jobs: list[Job] = [
        partial(image, os.path.join(folder, entry['file_name']), (entry['width'], entry['height']))
        for entry in entries
    ]
    return Listing(findings, jobs)


def _use(file: str, part: str, metrics: list[Mapping], config: ConfigDict) -> coco.Use:
    """What becomes of the annotations in a file.

    Args:
        file: The real path.
        part: Where the data set is used.
        metrics: The configs of the CocoMetrics that score it.
        config: The data set's.
    """
    loads = [step for step in _walk(config.get('pipeline')) if step.get('with_mask')]
    paths = [metric.get('ann_file') for metric in metrics]
    scoring = [
        metric
        for metric, path in zip(metrics, paths, strict=True)
        if not metric.get('format_only') and (not path or os.path.realpath(path) == file)
    ]
    kinds = [metric.get('metric', 'bbox') for metric in scoring]
    scores = set(chain.from_iterable([kind] if isinstance(kind, str) else kind for kind in kinds))
    return coco.Use(
        masks=bool(loads),
        bitmaps=any(step.get('poly2mask', True) for step in loads),
        metrics=scores,
        from_file=any(metric.get('ann_file') for metric in scoring),
        classwise=any(metric.get('classwise') for metric in scoring),
        trained='train' in part,
        required='train' in part or ('val' in part and bool(scores)),
    )


def _subset(entries: list, config: ConfigDict, findings: list[Finding]) -> list:
    """Return those entries of a data set that its ``indices`` take, as mmengine does."""
    indices = config.get('indices')
    if indices is None or not entries:
        return entries
    try:
        if isinstance(indices, int):
            taken = entries[:indices] if indices >= 0 else entries[indices:]
        else:
            taken = [entries[i] for i in indices]
    except (IndexError, TypeError) as error:
        raise UserError(
            f'indices is {indices!r}, expected a number of samples or a list of their places, of '
            f'which there are {len(entries)}'
        ) from error
    if not taken:
        findings.append(fault('nothing to train or test on', f'indices is {indices!r}'))
    return taken


def _list_label_maps(dataset: Any, config: ConfigDict, model: Mapping, image: partial) -> Listing:
    """List a data set of label maps, which a model is trained with."""
    if 'classes' not in dataset.metainfo:
        raise UserError(
            f'a data set of type {type_name(config)} names no classes; set metainfo.classes'
        )
    loads = [
        step
        for step in _walk(config.get('pipeline'))
        if type_name(step) in ('LoadAnnotations', 'LoadAnnotationsChecked')
    ]
    for step in loads:
        check_reduce_zero_label(step.get('reduce_zero_label'), dataset.reduce_zero_label)
        if dataset.data_prefix.get('seg_map_path') is None:
            raise UserError(
                f'the pipeline of {type_name(config)} loads label maps, but its data_prefix names '
                'no seg_map_path; name their folder there or leave LoadAnnotations out'
            )
    findings: list[Finding] = []
    entries = dataset.load_data_list()
    if not entries:
        where = f'no *{dataset.img_suffix} in {dataset.data_prefix.get("img_path")}'
        findings.append(fault('nothing to train or test on', where))
    entries = _subset(entries, config, findings)
    ignored = _ignored(model)
    labels = label_maps.Labels(
        classes=dataset.metainfo['classes'],
        shift=bool(dataset.reduce_zero_label),
        subset=dataset.label_map,
        ignored=ignored,
        backend=next((step.get('imdecode_backend', 'pillow') for step in loads), 'pillow'),
    )
    if dataset.ignore_index not in (label_maps.UNLABELLED, ignored):
        where = f'ignore_index is {dataset.ignore_index}, but {ignored} in model.decode_head'
        findings.append(remark('ignore_index of a data set', where, 'goes by the head'))
    seen: set[int] = set()
    jobs: list[Job] = []
    for entry in entries:
        path = entry['img_path']
        jobs.append(partial(image, path))
        if loads:
            arguments = entry['seg_map_path'], path, labels, image.keywords['turn'], seen
            jobs.append(partial(label_maps.check_label_map, *arguments))
    last = partial(label_maps.missing_classes, labels, seen, not dataset.test_mode)
    return Listing(findings, jobs, last)


def _ignored(model: Mapping) -> int | None:
    """The label that a segmentor's loss leaves out."""
    heads = model.get('decode_head') or {}
    head = heads if isinstance(heads, Mapping) else heads[-1]
    return head.get('ignore_index', label_maps.UNLABELLED)


def _list_folders(dataset: Any, config: ConfigDict, image: partial) -> Listing:
    root, classes = dataset.img_prefix, dataset.CLASSES
    findings: list[Finding] = []
    if not dataset.with_label:
        files = [entry['img_path'] for entry in dataset.load_data_list()]
    elif dataset.ann_file:
        files, findings = folders.check_list(dataset.ann_file, root, classes)
    else:
        files, findings = folders.check_folders(root, classes, dataset.extensions)
    files = _subset(files, config, findings)
    return Listing(findings, [partial(image, file) for file in files])
