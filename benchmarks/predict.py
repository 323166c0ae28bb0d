"""Measure the speed of tools/predict.py, and a run of many images.

`predict.py speed CONFIG MODEL...` compares the tool, with its pictures, with the net alone on
prepared images, for photos and a video. The two take turns in one process.

`predict.py many CONFIG MODEL` runs the tool on many small images, kills it at half and resumes it.
The exit code is 1 if an image is lost or predicted twice, the predictions differ from those of a
run that was not killed, or the memory grows by more than 5 %.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from memory import resident
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmvanilla.benchmark.machine import processor
from mmvanilla.datasets.shapes import draw_scene
from mmvanilla.deploy.predict import Flow, Predictor, Results, find_inputs, make_predictor

TOOL = Path(__file__).parents[1] / 'tools/predict.py'
LOADED = 16  # prepared images for the bare net
SEEN = 50  # images between two readings of the memory
GROWTH = 1.05


def write_images(folder: Path, count: int, width: int, height: int) -> None:
    """Write JPEG images of shapes; more than 100 repeat."""
    folder.mkdir()
    scenes = [draw_scene(np.random.default_rng(i), max(width, height)).image for i in range(100)]
    for number, image in zip(range(count), cycle(scenes)):
        cv2.imwrite(str(folder / f'{number:06d}.jpg'), image[:height, :width])


def write_video(file: Path, images: list[str], count: int) -> None:
    """Write a video of images, each scaled to the size of the first."""
    height, width = cv2.imread(images[0]).shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*'mp4v'), 25, (width, height))
    for image in islice(cycle(images), count):
        writer.write(cv2.resize(cv2.imread(image), (width, height)))
    writer.release()


def time_flow(predict: Predictor, cfg: Config, source: str, args: argparse.Namespace) -> float:
    """Return the images or frames a second of the tool's flow."""
    with tempfile.TemporaryDirectory() as folder:
        results = Results(folder, cfg, pictures=args.pictures)
        inputs = results.start(find_inputs([source]), {})
        begun = time.perf_counter()
        jobs = sum(job.record not in (None, {}) for job in Flow(predict, inputs, results))
        results.finish()
        return jobs / (time.perf_counter() - begun)


def time_net(predict: Predictor, images: list[str], count: int) -> float:
    """Return the images a second of the net, by as many threads as it takes."""
    prepared = [predict.pipeline.pack(predict.load(image)) for image in images[:LOADED]]
    batches = [[image] for image in islice(cycle(prepared), count)]
    predict.run(batches[0])
    begun = time.perf_counter()
    if predict.parallel == 1:
        for batch in batches:
            predict.run(batch)
    else:
        with ThreadPoolExecutor(predict.parallel) as pool:
            list(pool.map(predict.run, batches))
    return count / (time.perf_counter() - begun)


def measure_speed(args: argparse.Namespace) -> dict:
    """Measure each model; print and return the table."""
    rows = {}
    table = Table('model', 'threads', 'input', 'net / s', 'predict.py / s', 'share')
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, 'photos')
        if args.photos:
            folder.mkdir()
            found = [item.path for item in find_inputs([args.photos]) if not item.is_video]
            for number, path in enumerate(islice(cycle(found), args.count)):
                os.symlink(path, folder / f'{number:06d}{Path(path).suffix}')
        else:
            write_images(folder, args.count, *args.size)
        images = [item.path for item in find_inputs([str(folder)])]
        write_video(Path(scratch, 'video.mp4'), images, args.count)
        for file in args.models:
            cfg = Config.fromfile(args.config)
            predict = make_predictor(cfg, file, args.device, trust=True, throughput=True)
            for source in (folder, Path(scratch, 'video.mp4')):
                rates = [
                    (
                        time_net(predict, images, args.count),
                        time_flow(predict, cfg, str(source), args),
                    )
                    for _ in range(args.repeat)
                ]
                net, flow = (statistics.median(column) for column in zip(*rates, strict=True))
                row = dict(net=net, flow=flow, share=flow / net, parallel=predict.parallel)
                rows[f'{Path(file).name}, {source.stem}'] = row
                numbers = (f'{net:.2f}', f'{flow:.2f}', f'{flow / net:.2f}')
                table.add_row(Path(file).name, str(predict.parallel), source.stem, *numbers)
    Console().print(table)
    return dict(images=args.count, pictures=args.pictures, rows=rows)


def watch(command: list[str], lines: Path, kill_at: int | None = None) -> Iterator[float]:
    """Run the tool; yield its memory in MiB after every 50 lines; kill it after a number."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    position = count = seen = 0
    while process.poll() is None:
        time.sleep(0.05)
        if not lines.exists() or lines.stat().st_size <= position:
            continue
        with open(lines, 'rb') as file:
            file.seek(position)
            count += file.read().count(b'\n')
            position = file.tell()
        if count // SEEN > seen:
            seen = count // SEEN
            yield resident(process.pid)
        if kill_at and count >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if not kill_at and process.returncode:
        sys.exit(f'{" ".join(command)} failed')


def measure_many(args: argparse.Namespace) -> dict:
    """Run, kill and resume the tool; return the findings."""
    with tempfile.TemporaryDirectory() as scratch:
        photos, whole, halves = (Path(scratch, name) for name in ('photos', 'whole', 'halves'))
        write_images(photos, args.count, *args.size)
        begun = time.perf_counter()
        count = len(find_inputs([str(photos)]))
        listing = time.perf_counter() - begun
        command = [sys.executable, str(TOOL), args.config, args.models[0], str(photos), '--trust']
        command += [] if args.pictures else ['--no-pictures']
        command += ['--device', args.device, '--out']
        memory = list(watch([*command, str(whole)], whole / 'predictions.jsonl'))
        kill_at = args.count // 2
        for _ in watch([*command, str(halves)], halves / 'predictions.jsonl', kill_at):
            pass
        first = (halves / 'predictions.jsonl').read_bytes().count(b'\n')
        for _ in watch([*command, str(halves), '--resume'], halves / 'predictions.jsonl'):
            pass
        with open(halves / 'predictions.jsonl') as file:
            names = [json.loads(line)['name'] for line in file]
        documents = [folder / 'predictions.json' for folder in (whole, halves)]
        same = documents[0].read_bytes() == documents[1].read_bytes()
    fifth = max(len(memory) // 5, 1)
    start, end = statistics.median(memory[:fifth]), statistics.median(memory[-fifth:])
    return dict(
        images=count,
        listing_s=round(listing, 3),
        memory_start_mib=round(start, 1),
        memory_end_mib=round(end, 1),
        killed_after=first,
        predicted=len(names),
        repeated=len(names) - len(set(names)),
        same_json=same,
        passed=count == len(set(names)) == len(names) and same and end < GROWTH * start,
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('check', choices=['speed', 'many'], help='what to measure')
    parser.add_argument('config', help='config file')
    parser.add_argument('models', nargs='+', metavar='MODEL', help='checkpoint or exported file')
    parser.add_argument('--count', type=int, help='images (default: speed 300, many 20000)')
    parser.add_argument('--photos', metavar='DIR', help='images for speed (default: shapes)')
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('W', 'H'), help='of shapes (default: 640 480, 64 48)'
    )
    parser.add_argument('--repeat', type=int, default=3, help='rounds of speed (%(default)s)')
    parser.add_argument('--threads', type=int, help='CPU threads of torch and the runtimes')
    parser.add_argument('--device', default='cpu', help='device of a checkpoint (%(default)s)')
    parser.add_argument(
        '--pictures', action=argparse.BooleanOptionalAction, help='default: speed yes, many no'
    )
    parser.add_argument('--json', type=Path, help='file to write')
    args = parser.parse_args()
    speed = args.check == 'speed'
    args.count = args.count or (300 if speed else 20_000)
    args.size = args.size or ((640, 480) if speed else (64, 48))
    args.pictures = speed if args.pictures is None else args.pictures
    if args.threads:
        torch.set_num_threads(args.threads)
    found = measure_speed(args) if speed else measure_many(args)
    machine = dict(machine=processor(), python=platform.python_version(), torch=torch.__version__)
    result = dict(**machine, threads=torch.get_num_threads(), **found)
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result) + '\n')
    sys.exit(0 if speed or found['passed'] else 1)


if __name__ == '__main__':
    main()
