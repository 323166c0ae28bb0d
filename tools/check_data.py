"""Check the data of a config before training: tools/check_data.py CONFIG.

The exit code is 0 if there is nothing that training would stumble over, 1 if there is, 2 on a
mistake in the arguments. Remarks on what is handled leave it at 0.
"""

import argparse
import json
import os
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import mmvanilla  # noqa: F401 - lets mmdet and mmseg be imported without a compiled mmcv
from mmvanilla.cli import (
    add_cfg_options,
    add_data_root,
    add_debug,
    load_config,
    one_sentence_errors,
)
from mmvanilla.data_checks import check_datasets, check_paths
from mmvanilla.deploy.files import writing


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Check the data of a config before training.')
    parser.add_argument('config', help='config file of mmdet, mmseg or mmpretrain')
    add_data_root(parser)
    add_cfg_options(parser)
    parser.add_argument(
        '--decode',
        action='store_true',
        help='decode every image, not only its header; finds what is broken in the middle',
    )
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        # Reading headers is Python, which threads do not speed up, unless the storage is slow.
        help='threads that read files (default: one for headers, one a core to decode)',
    )
    parser.add_argument('--json', metavar='FILE', help='write the findings to a JSON file')
    add_debug(parser)
    args = parser.parse_args()
    if args.workers is None:
        args.workers = (os.cpu_count() or 1) if args.decode else 1
    if args.workers < 1:
        parser.error(f'--workers is {args.workers}, expected 1 or more')
    return args


def main() -> None:
    """Check."""
    args = parse_args()
    columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
    start = time.perf_counter()
    with one_sentence_errors(args.debug, Exception):
        cfg = load_config(args)
        check_paths(cfg)
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            report, count = check_datasets(
                cfg,
                args.decode,
                args.workers,
                lambda files, part, total: progress.track(files, total, description=part),
            )
        if args.json:
            with writing(args.json) as file, open(file, 'w', encoding='utf-8') as stream:
                json.dump(dict(files=count, findings=report.rows()), stream, indent=2)
    if report.rows():
        Console(highlight=False).print(report.table())
    seconds = time.perf_counter() - start
    print(f'{count} files checked in {seconds:.1f} s, {report.errors} errors')
    sys.exit(1 if report.errors else 0)


if __name__ == '__main__':
    main()
