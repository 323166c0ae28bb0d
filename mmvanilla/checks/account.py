"""The account of a data set: images and objects in its files, and those that were loaded."""

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from .annotations import compare_annotations, find_wrong_boxes, read_xml
from .documents import read_json
from .findings import Finding
from .folders import compare_folders
from .items import leaves
from .source import Source

SAMPLE = 500  # about the number of images with checked boxes


@dataclass
class Account:
    """Numbers of a split, ``'train'``, ``'val'`` or ``'test'``, by data set without wrappers."""

    split: str
    sources: list[Source]

    @property
    def labels(self) -> int:
        """The highest label that was loaded + 1; 0 if unknown."""
        return max((label + 1 for source in self.sources for label in source.labels), default=0)

    def line(self) -> str:
        """Return the account in one line."""
        loaded = f'{self._number("images")} images'
        if any(source.objects or source.raw_objects for source in self.sources):
            number = len({name for source in self.sources for name in source.classes})
            loaded += f', {self._number("objects")} objects in {number} classes'
        lost = self._lost()
        return f'{self.split}: {loaded} loaded' + (f'; left out: {lost}' if lost else '')

    def findings(self) -> list[Finding]:
        """Return refusals and warnings."""
        found = [finding for source in self.sources for finding in source.findings]
        found += [finding for source in self.sources for finding in source.mostly_lost()]
        counts: Counter = Counter()
        for source in self.sources:
            for i, name in enumerate(source.classes if source.labels else ()):
                counts[name] += source.labels[i]
        if empty := [name for name, number in counts.items() if not number]:
            names = ', '.join(map(repr, empty[:3])) + ' ...' * (len(empty) > 3)
            text = f'{self.split}: {len(empty)} of {len(counts)} classes have no objects ({names})'
            found.append(Finding(text))
        lost = self._lost(losses=True)
        if lost and not any(finding.refuse for finding in found):
            found.append(Finding(f'{self.split}: left out: {lost}'))
        nothing = [source for source in self.sources if source.raw_objects == 0]
        if self.split == 'train' and nothing and not self.labels:
            found.append(Finding(f'{nothing[0].name}: no object of the classes in the file', True))
        return found

    def table(self) -> list[dict]:
        """Return one row for each finding and each reason, with an example."""
        rows: list[dict] = [
            dict(kind=finding.text, error=finding.refuse, count=1, examples=[])
            for finding in self.findings()
        ]
        for source in self.sources:
            for key, n in source.lost.items():
                examples = [f'{source.name}: {source.examples[key]}']
                kind = f'{key.what} {key.reason}'
                rows.append(dict(kind=kind, error=False, count=n, examples=examples))
        return [dict(row, data=self.split) for row in rows]

    def _number(self, what: str) -> str:
        loaded = sum(getattr(source, what) for source in self.sources)
        raw = [getattr(source, f'raw_{what}') for source in self.sources]
        return f'{loaded:,}' if None in raw else f'{loaded:,} of {sum(raw):,}'

    def _lost(self, losses: bool = False) -> str:
        """Describe what was not loaded, or losses only."""
        lost: Counter = sum((source.lost for source in self.sources), Counter())
        found = [(key, n) for key, n in lost.items() if key.loss or not losses]
        return ', '.join(f'{n:,} {key.what} {key.reason}' for key, n in found)


def account(dataset: Any, split: str) -> Account:
    """Compare a built data set with its files.

    Args:
        dataset: A data set or wrappers of data sets, fully initialized.
        split: Its name in messages, ``'train'``, ``'val'`` or ``'test'``.
    """
    return Account(split, [_source(leaf) for leaf in leaves(dataset)])


def _source(leaf: Any) -> Source:
    """Count the loaded images and objects of one data set, then those in its files."""
    file, prefix = str(getattr(leaf, 'ann_file', None) or ''), getattr(leaf, 'data_prefix', None)
    folders = list(prefix.values()) if isinstance(prefix, Mapping) else [prefix]
    where = file or next((str(folder) for folder in folders if folder), '')
    source = Source(f'{type(leaf).__name__} {where}'.strip(), len(leaf))
    classes = (getattr(leaf, 'metainfo', None) or {}).get('classes') or ()
    if isinstance(classes, list | tuple) and len(set(classes)) == len(classes):
        source.classes = tuple(classes)
    else:
        source.add(f'metainfo.classes is {classes!r}, expected a tuple of different names')
    loaded: Counter = Counter()  # objects by image id
    paths: dict[str, set[str]] = dict(img_path=set(), seg_map_path=set())
    sample: list[dict] = []
    labels: list[int] = []
    for i in range(len(leaf) if hasattr(leaf, 'get_data_info') else 0):
        info = leaf.get_data_info(i)
        instances = info.get('instances') or []
        labels += [item['bbox_label'] for item in instances if not item.get('ignore_flag')]
        if 'gt_label' in info:
            source.labels.update(np.atleast_1d(info['gt_label']).tolist())
        if 'img_id' in info and 'instances' in info:
            loaded[info['img_id']] = len(instances)
        for key, found in paths.items():
            if not file and isinstance(info.get(key), str):
                found.add(os.path.normpath(info[key]))
        if i % (len(leaf) // SAMPLE + 1) == 0:
            sample.append(info)
    source.objects = len(labels)
    source.labels.update(labels)
    with suppress(AttributeError, IndexError, KeyError, OSError, TypeError, ValueError):
        # Files in an unknown format have no raw numbers.
        if file and os.path.exists(file) and (loaded or not source.images):
            document = read_xml(leaf) if hasattr(leaf, 'ann_subdir') else read_json(file)
            compare_annotations(leaf, document, loaded, source)
        elif not file and os.path.exists(where):
            compare_folders(leaf, paths['img_path'], paths['seg_map_path'], source)
        find_wrong_boxes(sample, source)
    return source
