"""Check the data of a config before training: tools/check_data.py CONFIG.

The exit code is 0 if there is no error, 1 if there is one, 2 on a mistake in the arguments.
Warnings leave it at 0.
"""

import argparse
import os

from mmvanilla.cli import add_arguments, check_config, load_config, one_sentence_errors
from mmvanilla.errors import InputError, UserError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Check the data of a config before training.')
    add_arguments(parser, 'config', '--data-root', '--cfg-options', '--warn-only')
    parser.add_argument(
        '--decode',
        action='store_true',
        help='decode every image and run the whole pipeline on every item',
    )
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        # Threads speed up reading headers on slow storage only.
        help='number of threads (default: 1 for headers, all cores with --decode)',
    )
    parser.add_argument('--json', metavar='FILE', help='write the findings to a JSON file')
    add_arguments(parser, '--debug')
    args = parser.parse_args()
    if args.workers is None:
        args.workers = (os.cpu_count() or 1) if args.decode else 1
    if args.workers < 1:
        parser.error(f'--workers is {args.workers}, expected 1 or more')
    check_config(args)
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console
from rich.progress import track
from rich.table import Table

import mmvanilla  # noqa: F401 - lets mmdet and mmseg be imported without a compiled mmcv
from mmvanilla.checks import Items, Record, account, compare, noted_json, record_of_dataset
from mmvanilla.checks.files import check_image, check_label_map
from mmvanilla.checks.items import failing_step, label_map_step, leaves
from mmvanilla.engine.run import build_errors
from mmvanilla.whole_files import writing

EXAMPLES = 3  # in the table; the JSON file has all
Result = tuple[str, str, bool]  # what is found, where, and whether it is an error


def main(args: argparse.Namespace) -> None:
    """Check."""
    start, rows, count, lines = time.perf_counter(), [], 0, []
    training: Record | None = None
    with one_sentence_errors(args.debug, Exception):
        cfg = load_config(args)
        for splits, config in data_sets(cfg):
            split = ', '.join(splits)
            with noted_json():
                try:
                    dataset = build(cfg, splits[0], config)
                except UserError as error:
                    if isinstance(error.__cause__, FileNotFoundError):
                        raise
                    rows.append(row(split, 'data set that cannot be built', [str(error)], True))
                    continue
                counted = account(dataset, split)
            lines.append(counted.line())
            record = record_of_dataset(dataset, images=False, name=f'the data of {split}')
            training = training or record
            judged = counted.table()
            for finding in compare(training, record, 'data'):
                judged.append(row(split, 'other classes than in training', [finding.text], True))
            rows += [dict(each, error=each['error'] and not args.warn_only) for each in judged]
            maps = [LabelMaps(leaf, cfg) for leaf in leaves(dataset)]
            jobs = file_jobs(dataset, maps, args.decode)
            results = chain(*run_jobs(jobs, args.workers, split))
            places: dict[tuple[str, bool], list[str]] = {}
            for kind, where, wrong in chain(results, *(labels.missing() for labels in maps)):
                places.setdefault((kind, wrong), []).append(where)
            rows += [row(split, kind, where, wrong) for (kind, wrong), where in places.items()]
            count += len(jobs)
        rows.sort(key=lambda row: not row['error'])
        if args.json:
            with writing(args.json) as file, open(file, 'w', encoding='utf-8') as stream:
                json.dump(dict(files=count, account=lines, findings=rows), stream, indent=2)
    if rows:
        Console(highlight=False).print(table(rows))
    errors = sum(row['count'] for row in rows if row['error'])
    print('\n'.join(lines))
    print(f'{count} files checked in {time.perf_counter() - start:.1f} s, {errors} errors')
    sys.exit(1 if errors else 0)


def data_sets(cfg: Config) -> list[tuple[list[str], dict]]:
    """Return the config's data sets with their splits; equal ones once."""
    found: list[tuple[list[str], dict]] = []
    for split in ('train', 'val', 'test'):
        config = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        same = next((splits for splits, other in found if other == config), None)
        if same:
            same.append(split)
        elif config:
            found.append(([split], config))
    return found


def run_jobs(jobs: list[Callable], workers: int, split: str) -> list[list[Result]]:
    """Run the checks in threads, with a bar on stderr."""
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda job: job(), jobs)
        return list(track(done, split, len(jobs), console=Console(stderr=True)))


def build(cfg: Config, split: str, config: dict) -> Any:
    """Build a data set.

    Raises:
        UserError: The library cannot build the data set.
    """
    init_default_scope(cfg.default_scope)
    with build_errors(cfg, split):
        dataset = DATASETS.build(config)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        return dataset


def file_jobs(dataset: Any, maps: list['LabelMaps'], decode: bool) -> list[Callable]:
    """Return the checks of all files, with ``decode`` of all items too."""
    jobs: list[Callable] = []
    for labels in maps:
        for i in range(len(labels.leaf) if hasattr(labels.leaf, 'get_data_info') else 0):
            jobs.append(partial(check_files, labels, i, decode))
    if decode:
        items = Items(dataset, check=False)
        jobs += [partial(load, items, i) for i in range(len(items))]
    return jobs


class LabelMaps:
    """The labels in the label maps of one data set, as mmseg's loading step reads them."""

    def __init__(self, leaf: Any, cfg: Config) -> None:
        self.leaf = leaf
        self.step = label_map_step(leaf)
        self.shift = bool(getattr(leaf, 'reduce_zero_label', False))
        self.classes = (getattr(leaf, 'metainfo', None) or {}).get('classes') or ()
        heads = (cfg.get('model') or {}).get('decode_head') or {}
        head = heads[-1] if isinstance(heads, (list, tuple)) else heads
        self.ignored = head.get('ignore_index', 255)
        self.seen: set[int] = set()

    def check(self, info: dict) -> list[Result]:
        """Read one label map and compare its labels with the classes."""
        step = copy(self.step)  # it stores the first value it sees
        found = set(np.unique(step(dict(info, seg_fields=[]))['gt_seg_map']).tolist())
        self.seen |= found
        path = info['seg_map_path']
        wrong = sorted(found - {*range(len(self.classes)), self.ignored})
        if wrong:
            where = f'{path} (label {wrong[-1]}, expected 0 to {len(self.classes) - 1}'
            where += f' or ignore_index={self.ignored} of the head)'
            return [('label out of range', where, True)]
        return [('label map without a label', path, False)] if found == {self.ignored} else []

    def missing(self) -> list[Result]:
        """Return the classes that no label map has, with a likely reason."""
        found, last = [], len(self.classes) - 1
        for i, name in enumerate(self.classes if self.seen else ()):
            if i in self.seen and i != self.ignored:
                continue
            hint = ''
            if self.shift and i == last and self.ignored in self.seen:
                hint = '; labels seem to count from 0; set reduce_zero_label=False'
            elif not self.shift and i == 0 and last + 1 in self.seen:
                hint = '; labels seem to count from 1; set reduce_zero_label=True'
            elif self.ignored in self.seen:
                hint = f'; label {self.ignored} is ignored, write {i + self.shift} for this class'
            found.append(('class in no label map', f'{name!r} ({i + self.shift}{hint})', False))
        return found


def check_files(labels: LabelMaps, i: int, decode: bool) -> list[Result]:
    """Check the files of one item."""
    info = labels.leaf.get_data_info(i)
    path, label_map = info.get('img_path'), info.get('seg_map_path')
    size = (info['width'], info['height']) if {'width', 'height'} <= info.keys() else None
    kind = 'image'
    try:
        if isinstance(path, str) and '://' not in path:
            check_image(path, size, decode)
        if label_map and labels.step:
            kind = 'label map'
            check_label_map(label_map, path, backend=labels.step.imdecode_backend)
            return labels.check(info)
    except InputError as error:
        return [(f'{kind} that cannot be used', str(error), True)]
    return []


def load(items: Items, i: int) -> list[Result]:
    """Send one item through the pipeline."""
    try:
        items[i]
    except InputError as error:
        step = failing_step(error.__cause__)[0] if error.__cause__ else ''
        return [(f'item that fails in {step or "its data set"}', str(error), True)]
    return []


def row(split: str, kind: str, examples: list[str], error: bool) -> dict:
    """Return a row of the table."""
    return dict(data=split, kind=kind, error=error, count=len(examples), examples=examples)


def table(rows: list[dict]) -> Table:
    """Return the findings as a table."""
    result = Table('data', 'found', 'count', show_lines=True)
    result.add_column('examples', overflow='fold')
    for line in rows:
        kind = f'[red]error[/]: {line["kind"]}' if line['error'] else line['kind']
        examples = line['examples'][:EXAMPLES] + ['...'] * (len(line['examples']) > EXAMPLES)
        # JSON and the names of files may hold halves of characters, which no terminal prints.
        text = '\n'.join(examples).encode('utf-8', 'backslashreplace').decode()
        result.add_row(line['data'], kind, str(line['count']), text.replace('[', r'\['))
    return result


if __name__ == '__main__':
    main(args)
