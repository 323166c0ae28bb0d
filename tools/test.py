"""Test a detector, segmentor or classifier: tools/test.py CONFIG CHECKPOINT.

Tests a checkpoint or an exported file with the metrics of the config.
"""

import argparse
import os

from mmvanilla.cli import (
    EXPORTED,
    RUN,
    add_arguments,
    check_config,
    load_config,
    one_sentence_errors,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Test a detector, segmentor or classifier.')
    add_arguments(parser, 'config')
    parser.add_argument(
        'checkpoint',
        help='checkpoint, FILE[#sha256=HASH] or https://..., or exported .onnx, .xml or .pt2 file',
    )
    add_arguments(parser, *RUN, *EXPORTED)
    parser.add_argument(
        '--compare',
        metavar='OTHER',
        help='also test another checkpoint or exported file and print both side by side; one image '
        'a batch',
    )
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to a pickle file')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='write pictures of the predictions to DIR'
    )
    add_arguments(parser, '--draw')
    parser.add_argument(
        '--report', metavar='DIR', help='write a page to DIR that shows what the model gets wrong'
    )
    parser.add_argument(
        '--against',
        metavar='OTHER',
        help='with --report: put another checkpoint or exported file beside it',
    )
    parser.add_argument(
        '--fuse',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='test the deploy form, which is faster and has the same outputs (default: yes)',
    )
    parser.add_argument(
        '--accelerate',
        action='store_true',
        help='test the fused net with fast layers, in 16 bit if that is faster',
    )
    parser.add_argument('--tta', action='store_true', help='augment at test time')
    add_arguments(parser, '--debug')
    args = parser.parse_args()
    if args.accelerate and not args.fuse:
        parser.error('--accelerate fuses the net; leave out --no-fuse')
    if args.compare and (args.out or args.show_dir):
        parser.error('--out and --show-dir write the results of one model; leave out --compare')
    if args.against and not args.report:
        parser.error('--against is for a report; add --report DIR')
    if args.against and (args.compare or args.out or args.show_dir):
        parser.error('--against tests two models for a report; leave out --compare and others')
    if args.report and os.path.isfile(args.report):
        parser.error(f'--report is {args.report!r}, which is a file; expected a folder')
    if args.against and '://' not in args.against:
        file = args.against.partition('#')[0]
        if not os.path.exists(os.path.expanduser(file)):
            parser.error(f'--against is {file!r}, which does not exist; check the path')
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out is {args.out!r}, expected a name that ends in .pkl')
    check_config(args)
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.registry import METRICS
from rich.console import Console
from rich.table import Column, Table

import mmvanilla
from mmvanilla import UserError
from mmvanilla.checks import account
from mmvanilla.deploy.load import match_form
from mmvanilla.deploy.predict import (
    check_precision,
    exported_config,
    is_exported,
    steps_of,
    tested_datasets,
)
from mmvanilla.report import ReportMetric, write_page
from mmvanilla.type_name import library, type_name

TEST = ('test_dataloader', 'test_cfg', 'test_evaluator')  # required by mmengine
DETECTOR_TTA = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
)


def test_config(args: argparse.Namespace, file: str) -> Config:
    """Load the config and apply the arguments of tests.

    Args:
        args: The command line.
        file: The checkpoint or exported file to test.
    """
    cfg = load_config(args)
    check_test(cfg)
    exported = is_exported(file)
    choose_form(cfg, args.fuse and not exported)
    if exported:
        use_exported(cfg, file, args)
    else:
        cfg.load_from = file
        match_form(cfg, file, args.warn_only)
    if args.show_dir:
        show_results(cfg, args.show_dir, args.draw)
    if args.tta:
        augment(cfg)
    if args.compare or args.against:
        # Batches pad images to the largest; exported models get unpadded ones.
        cfg.test_dataloader.batch_size = 1
    return cfg


def use_exported(cfg: Config, file: str, args: argparse.Namespace) -> None:
    """Replace the model of a config by an exported file, in place.

    Raises:
        UserError: An option needs a checkpoint.
    """
    for option in ('accelerate', 'tta'):
        if getattr(args, option):
            raise UserError(
                f'--{option} needs a checkpoint, and {file!r} is exported; name a checkpoint'
            )
    cfg.load_from, cfg.custom_hooks = None, []  # they may need a PyTorch model
    options = dict(trust=args.trust, precision=args.precision, warn_only=args.warn_only)
    cfg.model = exported_config(cfg, file, **options)


def check_test(cfg: Config) -> None:
    """Check that a config has the settings of a test.

    Raises:
        UserError: Settings are missing.
    """
    missing = [name for name in TEST if cfg.get(name) is None]
    if missing:
        raise UserError(
            f'the config has no {" and no ".join(missing)}, expected all of {", ".join(TEST)}; set '
            f'{missing[0]} in it, for example as in the validation, or use another config'
        )


def choose_form(cfg: Config, fuse: bool) -> None:
    """Add the hook that fuses, or remove it."""
    hooks = cfg.get('default_hooks') or {}
    kept = {n: hook for n, hook in hooks.items() if type_name(hook) != 'SwitchToDeployHook'}
    cfg.default_hooks = dict(kept, deploy=dict(type='SwitchToDeployHook')) if fuse else kept
    custom = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in custom if type_name(hook) != 'SwitchToDeployHook']


def show_results(cfg: Config, folder: str, draw: str) -> None:
    """Draw every image of the test."""
    options = dict(folder=folder, score_thr=score_thr(cfg), draw=draw)
    cfg.custom_hooks.append(dict(type='ShowHook', **options))


def score_thr(cfg: Config) -> float:
    """Return the smallest score of a detection that is shown."""
    return (cfg.default_hooks.get('visualization') or {}).get('score_thr', 0.3)


def augment(cfg: Config) -> None:
    """Add test-time augmentation of the config, flips for a detector."""
    paths = tested_datasets(cfg)
    if detector := library(cfg) == 'mmdet':
        cfg.tta_model = cfg.get('tta_model') or DETECTOR_TTA
        # mmdet merges the boxes of the augmented images, but not their masks.
        for metric in metrics(cfg.test_evaluator):
            kinds = metric.get('metric') or ()
            if 'segm' in kinds:
                rest = [kind for kind in kinds if kind != 'segm'] if kinds != 'segm' else []
                metric.metric = rest or 'bbox'
        if 'mask_head' in (cfg.model.get('roi_head') or {}):
            cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    if not cfg.get('tta_model') or not (detector or cfg.get('tta_pipeline')):
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    model, cfg.model = cfg.model, copy.deepcopy(cfg.tta_model)
    cfg.model.module = model
    for *wrappers, dataset in paths:
        steps = steps_of([*wrappers, dataset])
        dataset.pipeline = cfg.get('tta_pipeline') or [*steps[:-1], flips(steps[-1])]
        for wrapper in wrappers:
            if 'pipeline' in wrapper:
                wrapper.pipeline = []  # its steps are among those


def metrics(evaluator: ConfigDict | Sequence) -> list[ConfigDict]:
    """Return the configs of all metrics of an evaluator's config."""
    if isinstance(evaluator, list | tuple):
        return [metric for each in evaluator for metric in metrics(each)]
    return metrics(evaluator.metrics) if 'metrics' in evaluator else [evaluator]


def flips(pack: ConfigDict) -> dict:
    """Return the last step of a pipeline that tests an image and its mirror image."""
    known = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    # A copy of the ConfigDict: a config with classes in a plain dict cannot be dumped.
    pack = copy.deepcopy(pack)
    pack.meta_keys = (*pack.get('meta_keys', known), 'flip', 'flip_direction')
    turns = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    return dict(type='TestTimeAug', transforms=[turns, [pack]])


def run_test(args: argparse.Namespace, file: str) -> tuple[dict[str, float], Any]:
    """Test a checkpoint or an exported file; return its metrics and the report's, if asked for."""
    with one_sentence_errors(args.debug, Exception):
        cfg = test_config(args, file)
        runner = mmvanilla.engine.build_runner(cfg, 'test', args.warn_only)
        if not is_exported(file):
            runner.register_hook(dict(type='CheckWeightsHook', whole=True))
        if args.accelerate:
            runner.register_hook(dict(type='AccelerateHook'))
        if args.out:
            kind = 'DumpDetResults' if library(cfg) == 'mmdet' else 'DumpResults'
            dump = METRICS.build(dict(type=kind, out_file_path=args.out))
            runner.test_evaluator.metrics.append(dump)
        report = None
        if args.report:
            report = ReportMetric(file, runner.test_dataloader.dataset, score_thr(cfg))
            report.dataset_meta = runner.test_evaluator.dataset_meta
            runner.test_evaluator.metrics.append(report)
    with (
        one_sentence_errors(args.debug, UserError, FileNotFoundError),
        mmvanilla.engine.progress_bar(runner, args.progress),
    ):
        return runner.test(), report


def print_metrics(results: dict[str, dict[str, float]]) -> None:
    """Print the metrics of two files side by side, with their difference."""
    (first, metrics), (second, others) = results.items()
    files = (Column(name, overflow='fold') for name in (first, second))
    table = Table('metric', *files, 'difference')
    for name in metrics:
        values = metrics[name], others.get(name, float('nan'))
        figures = [*values, values[1] - values[0]]
        table.add_row(name, *(f'{f:+.4f}' if i == 2 else f'{f:.4f}' for i, f in enumerate(figures)))
    Console(soft_wrap=True).print(table)


def write_report(args: argparse.Namespace, reports: list[ReportMetric]) -> str:
    """Write the page; return its path."""
    lines = [report.name for report in reports]
    lines.append(account(reports[0].dataset, 'test').line())
    if reports[0].finds_objects:
        lines.append(f'detections of a score of {reports[0].score_thr} or more are errors if wrong')
    title = f'What {Path(args.config).stem} gets wrong'
    return write_page(args.report, [report.evaluation for report in reports], title, lines)


def main(args: argparse.Namespace) -> None:
    """Test."""
    mmvanilla.safe_loading()
    files = dict.fromkeys(filter(None, [args.checkpoint, args.compare, args.against]))
    with one_sentence_errors(args.debug, UserError):
        if not any(map(is_exported, files)):
            check_precision(args.checkpoint, args.precision)
    results = {file: run_test(args, file) for file in files}
    if len(results) == 2 and is_main_process():
        print_metrics({file: metrics for file, (metrics, _) in results.items()})
    if args.report and is_main_process():
        with one_sentence_errors(args.debug, OSError):
            print(write_report(args, [report for _, report in results.values()]))


if __name__ == '__main__':
    main(args)
