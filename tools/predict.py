"""Predict images and videos: tools/predict.py CONFIG CHECKPOINT INPUT... --out DIR.

Writes pictures, and JSON of a detector (in COCO's result format) or classifier, or label maps of a
segmentor. The top classes of a classifier are printed. Several pictures are put on a contact sheet;
its path is printed last. Inputs that fail are named and skipped, and the exit code is then 1.
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
from mmvanilla.errors import CheckpointError, sentence


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
    check_config(args)
    return args


if __name__ == '__main__':
    args = parse_args()  # before the imports below, which take seconds

import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmvanilla import UserError, safe_loading
from mmvanilla.benchmark.settings import check_device
from mmvanilla.deploy.predict import (
    Input,
    InputError,
    Predictor,
    Results,
    find_inputs,
    frames,
    make_predictor,
    open_video,
)

DEFAULT_FPS = 25  # of videos that do not say


@contextmanager
def naming(what: str, debug: bool) -> Iterator[None]:
    """Add the name of an image to errors, so that the run goes on with the next.

    Raises:
        InputError: In place of any error except CheckpointError.
    """
    try:
        yield
    except (InputError, CheckpointError):
        raise
    except Exception as error:  # many kinds, of nets, runtimes and drivers
        if debug:
            raise
        kind = '' if isinstance(error, UserError) else f' ({type(error).__name__})'
        raise InputError(f'{what} cannot be predicted: {sentence(error)}{kind}') from error


def predict_image(predict: Predictor, item: Input, results: Results, debug: bool) -> None:
    """Predict an image; print the top classes of a classifier."""
    with naming(f'image {item.path!r}', debug):
        loaded = predict.load(item.path)
        sample = predict(loaded)
    results.add(item.name, loaded.pixels, sample)
    if 'pred_score' in sample:
        top = (f'{entry["class"]} {entry["score"]:.3f}' for entry in results.top(sample))
        print(f'{item.name}: {"; ".join(top)}')


def predict_video(
    predict: Predictor, item: Input, results: Results, progress: Progress, debug: bool
) -> None:
    """Predict a video frame by frame; write the frames before an error."""
    reader = open_video(item.path)
    early = None
    task = progress.add_task(item.name, total=reader.frame_cnt)
    with results.video(item.name, reader.fps or DEFAULT_FPS, reader.resolution) as append:
        try:
            for number, frame in enumerate(frames(reader, item.path)):
                with naming(f'frame {number} of video {item.path!r}', debug):
                    loaded = predict.load(frame)
                    sample = predict(loaded)
                append(loaded.pixels, sample)
                results.add_prediction(f'{item.name}_{number:06d}', sample)
                progress.advance(task)
        except InputError as error:
            early = error
    if early:
        raise early


def main(args: argparse.Namespace) -> None:
    """Predict."""
    safe_loading()
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
    failures = 0
    with one_sentence_errors(args.debug, Exception):
        set_device(args)
        check_device(args.device)
        inputs = find_inputs(args.inputs)
        cfg = load_config(args)
        results = Results(args.out, cfg, args.score_thr, args.draw)
        predict = make_predictor(
            cfg,
            args.checkpoint,
            args.device,
            args.fuse,
            args.trust,
            args.accelerate,
            args.precision,
            args.warn_only,
        )
        with Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=sys.stdout.isatty(),  # not if stdout is a file
        ) as progress:
            for item in progress.track(inputs, description='inputs'):
                try:
                    if item.is_video:
                        predict_video(predict, item, results, progress, args.debug)
                    else:
                        predict_image(predict, item, results, args.debug)
                except InputError as error:
                    failures += 1
                    console.print(f'predict.py: {error}')
        results.save()
        picture = results.overview()
    print(f'{len(inputs) - failures} of {len(inputs)} inputs predicted, written to {args.out}')
    if picture:
        print(picture)
        if args.show and not webbrowser.open(Path(picture).absolute().as_uri()):
            console.print('predict.py: --show found no program that opens pictures')
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main(args)
