"""Predict images and videos: tools/predict.py CONFIG CHECKPOINT INPUT... --out DIR.

Each input gets a picture, a line in predictions.jsonl and, from a segmentor, a label map. At the
end the lines of a detector (in COCO's result format) or classifier are copied to predictions.json,
also after Ctrl-C, SIGTERM or on a full disk; --resume predicts the missing inputs. The top classes
of a classifier are printed. The first pictures are put on a contact sheet; its path is printed
last. Inputs that fail are named and skipped, and the exit code is then 1.
"""

import argparse

from mmvanilla.cli import (
    EXPORTED,
    add_arguments,
    check_config,
    load_config,
    one_sentence_errors,
    set_device,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Predict images and videos.')
    add_arguments(parser, 'config')
    parser.add_argument(
        'checkpoint',
        help='checkpoint, FILE[#sha256=HASH] or https://..., or exported .onnx, .xml or .pt2 file',
    )
    parser.add_argument(
        'inputs', nargs='+', metavar='INPUT', help='image, folder of images, pattern or video'
    )
    parser.add_argument(
        '--out', metavar='DIR', default='predictions', help='where to write (default: %(default)s)'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='minimum score of boxes to draw (default: %(default)s)',
    )
    parser.add_argument(
        '--pictures',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='draw pictures and videos (default: yes)',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='keep the predictions in --out and predict the missing inputs',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='images in a batch of a checkpoint (default: %(default)s); images of other sizes are '
        'padded, which changes the results slightly; exported files take single images',
    )
    add_arguments(parser, '--draw', '--device')
    parser.add_argument(
        '--fuse',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='run the deploy form, which is faster and has the same outputs (default: yes)',
    )
    parser.add_argument(
        '--accelerate',
        action='store_true',
        help='run the fused net with fast layers, in 16 bit if that is faster',
    )
    add_arguments(parser, *EXPORTED)
    parser.add_argument(
        '--show', action='store_true', help='open the picture, or the contact sheet of several'
    )
    add_arguments(parser, '--cfg-options', '--warn-only', '--debug')
    args = parser.parse_args()
    if args.accelerate and not args.fuse:
        parser.error('--accelerate fuses the net; leave out --no-fuse')
    if args.batch_size < 1:
        parser.error(f'--batch-size is {args.batch_size}; expected a positive number')
    check_config(args)
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import hashlib
import json
import os
import signal
import sys
import webbrowser
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmvanilla import UserError, safe_loading
from mmvanilla.benchmark.settings import check_device
from mmvanilla.deploy.predict import (
    Flow,
    Input,
    Job,
    Results,
    find_inputs,
    is_exported,
    make_predictor,
)
from mmvanilla.engine.signals import noted_signals
from mmvanilla.safe_load.digest import hash_file, split_digest

# Settings of a config that predictions and pictures depend on.
USED = ('model', 'data_preprocessor', 'test_dataloader', 'val_dataloader', 'visualizer')


def identify(args: argparse.Namespace, cfg: Config) -> dict:
    """Return what predictions and pictures depend on, for ``--resume``."""
    file = split_digest(os.path.expanduser(args.checkpoint))[0]
    used = {key: value for key, value in cfg.to_dict().items() if key in USED}
    text = json.dumps(used, sort_keys=True, default=lambda value: type(value).__name__)
    return dict(
        checkpoint=hash_file(file)[:16] if os.path.isfile(file) else file,
        config=hashlib.sha256(text.encode()).hexdigest()[:16],
        score_thr=args.score_thr,
        pictures=args.pictures,
        draw=args.draw,
        accelerate=args.accelerate,
        precision=args.precision,
    )


class Report:
    """Progress bars, the top classes of images, and errors."""

    def __init__(self, inputs: list[Input]) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
        self.progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            redirect_stdout=sys.stdout.isatty(),  # not if stdout is a file
        )
        self.inputs = self.progress.add_task('inputs', total=len(inputs))
        self.video = None
        self.done = self.failures = 0

    def add(self, job: Job) -> None:
        """Report a finished image, frame or video."""
        if job.frame is not None:
            if self.video is None:
                self.video = self.progress.add_task(job.input.name, total=job.frames)
            self.progress.advance(self.video)
            return
        self.video = None
        self.progress.advance(self.inputs)
        self.done += 1
        if job.error:
            self.failures += 1
            self.console.print(f'predict.py: {job.error}')
        elif 'top' in job.record:
            top = (f'{entry["class"]} {entry["score"]:.3f}' for entry in job.record['top'])
            print(f'{job.name}: {"; ".join(top)}')


def main(args: argparse.Namespace) -> None:
    """Predict."""
    safe_loading()
    with one_sentence_errors(args.debug, Exception):
        set_device(args)
        check_device(args.device)
        if args.batch_size > 1 and is_exported(args.checkpoint):
            raise UserError(
                f'--batch-size is {args.batch_size}, but exported files take one image; leave it '
                'out, several images are predicted at the same time'
            )
        inputs = find_inputs(args.inputs)
        cfg = load_config(args)
        made_by = identify(args, cfg)
        results = Results(args.out, cfg, args.score_thr, args.draw, pictures=args.pictures)
        predict = make_predictor(
            cfg,
            args.checkpoint,
            args.device,
            args.fuse,
            args.trust,
            args.accelerate,
            args.precision,
            args.warn_only,
            throughput=len(inputs) > 1 or inputs[0].is_video,
        )
        missing = results.start(inputs, made_by, args.resume)
        report = Report(missing)
        with noted_signals() as signals:
            flow = Flow(
                predict,
                missing,
                results,
                args.batch_size,
                stopped=lambda: signals.received > 0,
                debug=args.debug,
            )
            try:
                with report.progress:
                    for job in flow:
                        report.add(job)
            finally:
                results.finish()
        picture = results.overview(inputs)
    earlier = len(inputs) - len(missing)
    count = f'{earlier + report.done - report.failures} of {len(inputs)} inputs predicted'
    before = f', {earlier} of them before' if earlier else ''
    print(f'{count}{before}, written to {args.out}')
    if picture:
        print(picture)
    left = len(missing) - report.done
    if signals.received and left:
        name = signal.Signals(signals.received).name
        report.console.print(f'predict.py: {name} with {left} inputs left; continue with --resume')
        sys.exit(128 + signals.received)
    if args.show and picture and not webbrowser.open(Path(picture).absolute().as_uri()):
        report.console.print('predict.py: --show found no program that opens pictures')
    sys.exit(1 if report.failures else 0)


if __name__ == '__main__':
    main(args)
