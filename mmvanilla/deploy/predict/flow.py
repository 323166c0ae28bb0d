"""Predict many images: read, compute, draw and write at the same time, in order.

Each stage runs in threads, since OpenCV, torch and the runtimes release Python's lock, and holds a
few images at most, so memory does not depend on the number of images.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat, takewhile
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from ...errors import CheckpointError, InputError, UserError, sentence
from .inputs import Input, frames, open_video
from .predictor import Predictor
from .results import Results, as_picture, encode

THREADS = 4  # that read, and that draw
DEFAULT_FPS = 25  # of videos that do not say

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass
class Job:
    """An image or frame on its way from its file to the results, or the end of a video.

    Attributes:
        input: The image or video.
        name: The name in the results.
        image: The path of an image, or a frame (H, W, 3), BGR; None at the end of a video.
        frame: The number of a frame, from 0.
        frames: The number of frames in the header of the video.
        fps: Frames a second.
        pixels: The loaded image.
        packed: The prepared image.
        sample: The prediction.
        record: The prediction as JSON.
        label_map: The encoded label map of a segmentor.
        picture: The drawn frame, or the encoded picture.
        error: The first thing that failed.
    """

    input: Input
    name: str
    image: str | np.ndarray | None = None
    frame: int | None = None
    frames: int = 0
    fps: float = DEFAULT_FPS
    pixels: np.ndarray | None = None
    packed: Any = None
    sample: BaseDataElement | None = None
    record: dict | None = None
    label_map: bytes | None = None
    picture: np.ndarray | bytes | None = None
    error: InputError | None = None

    @property
    def ends_video(self) -> bool:
        """Return whether the job is the end of a video."""
        return self.input.is_video and self.frame is None

    @property
    def description(self) -> str:
        """Return the image or frame in words, for messages."""
        if self.frame is None:
            return f'image {self.input.path!r}'
        return f'frame {self.frame} of video {self.input.path!r}'

    @contextmanager
    def noting(self, verb: str, debug: bool) -> Iterator[None]:
        """Note an error with the name of the image; the other images continue.

        Raises:
            CheckpointError: If the model does not fit, since all images would fail.
        """
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # many kinds, of nets, runtimes, drivers and drawing
            if debug and not isinstance(error, InputError):
                raise
            kind = '' if isinstance(error, UserError) else f' ({type(error).__name__})'
            text = f'{self.description} cannot be {verb}: {sentence(error)}{kind}'
            named = isinstance(error, InputError) and self.input.path in str(error)
            self.error = InputError(str(error) if named else text)


class Flow:
    """A run of a model over many images, as an iterable of finished jobs.

    A job whose image fails has an ``error``, and the others continue.

    Args:
        predictor: The model.
        inputs: Images and videos.
        results: The folder to write.
        batch_size: Images in a call of the model. The model gets single images from the first
            batch on that it refuses without refusing one of the images.
        stopped: Called before each batch; True ends the run after the predicted images.
        debug: Raise errors of images, except for InputError.

    Raises:
        CheckpointError: If the model does not fit.
        UserError: If the results cannot be written.
    """

    def __init__(
        self,
        predictor: Predictor,
        inputs: Sequence[Input],
        results: Results,
        batch_size: int = 1,
        stopped: Callable[[], bool] = lambda: False,
        debug: bool = False,
    ) -> None:
        self.predictor, self.inputs, self.results = predictor, inputs, results
        self.batch_size, self.stopped, self.debug = batch_size, stopped, debug
        self.frame_error: InputError | None = None  # the first one of the video being written
        self.frame_errors = 0
        self.unwritten = False  # whether a job could not be written

    def __iter__(self) -> Iterator[Job]:
        """Run; yield the jobs in order when they are written."""
        threads = min(THREADS, os.cpu_count() or 1)
        parallel, ahead = self.predictor.parallel, max(threads, self.batch_size)
        with ExitStack() as stack:

            def pool(size: int, setup: Callable[[], object] | None = None) -> Executor:
                executor = ThreadPoolExecutor(size, initializer=setup)
                stack.callback(executor.shutdown, cancel_futures=True)
                return executor

            jobs = in_thread(pool(1), self.read())
            loaded = in_order(pool(threads), self.load, jobs, ahead)
            batches = in_batches(loaded, lambda: self.batch_size)
            predicted: Iterable[list[Job]] = map(self.predict, batches)
            if parallel > 1:
                share = max(1, torch.get_num_threads() // parallel)
                runners = pool(parallel, partial(torch.set_num_threads, share))
                predicted = in_order(runners, self.predict, batches, parallel)
            ready = chain.from_iterable(takewhile(bool, predicted))
            drawn = in_order(pool(threads), self.draw, ready, ahead)
            yield from in_order(pool(1), self.write, drawn, ahead)

    def read(self) -> Iterator[Job]:
        """Yield the images, and the frames and ends of videos."""
        for item in self.inputs:
            if self.stopped():
                return
            job = Job(item, item.name, None if item.is_video else item.path)
            if item.is_video:
                try:
                    yield from self.read_frames(item)
                except InputError as error:
                    job.error = error
            yield job

    def read_frames(self, item: Input) -> Iterator[Job]:
        """Yield the frames of a video; raise an InputError if it cannot be read to its end."""
        reader = open_video(item.path)
        options = dict(frames=reader.frame_cnt, fps=reader.fps or DEFAULT_FPS)
        for number, frame in enumerate(frames(reader, item.path)):
            yield Job(item, f'{item.name}_{number:06d}', frame, number, **options)

    def load(self, job: Job) -> Job:
        """Read and prepare an image."""
        if job.image is not None:
            with job.noting('predicted', self.debug):
                loaded = self.predictor.load(job.image)
                job.image, job.pixels = None, loaded.pixels
                job.packed = self.predictor.pipeline.pack(loaded)
        return job

    def predict(self, jobs: list[Job]) -> list[Job]:
        """Predict images, in a batch if the model takes it; return nothing after a stop."""
        if self.stopped():
            return []
        ready = [job for job in jobs if job.packed is not None]
        refusal = self.predict_batch(ready) if len(ready) > 1 else None
        for job in ready:
            if job.sample is None:
                with job.noting('predicted', self.debug):
                    (job.sample,) = self.predictor.run([job.packed])
            job.packed = None
        if refusal and all(job.sample is not None for job in ready):  # no image is at fault
            self.batch_size = 1
            text = f'the model does not take these images as a batch ({sentence(refusal)}); all '
            print_log(f'{text}are predicted one by one', 'current', logging.WARNING)
        return jobs

    def predict_batch(self, jobs: list[Job]) -> Exception | None:
        """Predict images in a batch, or return the error."""
        try:
            samples = self.predictor.run([job.packed for job in jobs])
        except Exception as error:  # many kinds, of preprocessors, nets and drivers
            return error
        for job, sample in zip(jobs, samples, strict=True):
            job.sample = sample
        return None

    def draw(self, job: Job) -> Job:
        """Make the files of a prediction, in memory."""
        results = self.results
        if job.sample is not None:
            with job.noting('predicted', self.debug):
                if (labels := results.label_map(job.sample)) is not None:
                    job.label_map = encode(labels)
                job.record = results.record(job.name, job.sample)
        if results.pictures and job.pixels is not None:
            with job.noting('drawn', self.debug):
                if job.frame is not None:  # a frame that is not predicted stays in the video
                    job.picture = as_picture(job.pixels)
                if job.record is not None:
                    job.picture = results.draw(job.pixels, job.sample)
                    if job.frame is None:
                        job.picture = encode(job.picture)
        job.pixels = job.sample = None
        return job

    def write(self, job: Job) -> Job:
        """Write the files of a job, then its line; nothing after an error of the disk."""
        if self.unwritten:
            return job
        self.unwritten = True
        results, item = self.results, job.input
        with results.writing():
            if job.label_map is not None:
                results.write_png(f'labels/{job.name}', job.label_map)
            if isinstance(job.picture, bytes):
                results.write_png(f'pictures/{job.name}', job.picture)
            elif job.picture is not None:
                results.write_frame(item.name, job.fps, job.picture)
            if job.ends_video:
                results.end_video()
                self.add_errors_of_frames(job)
                job.record = {} if job.error is None else None
            elif job.frame is not None and job.error:
                self.frame_errors += 1
                self.frame_error = self.frame_error or job.error
            if job.record is not None:
                frame = {} if job.frame is None else dict(frame=job.frame)
                results.lines.append(dict(file=item.path, name=job.name, **frame, **job.record))
        self.unwritten = False
        return job

    def add_errors_of_frames(self, job: Job) -> None:
        """Name the first frame that failed in the error of its video."""
        if self.frame_error:
            count = f'{self.frame_errors} frames failed' if self.frame_errors > 1 else None
            texts = filter(None, (self.frame_error, count, job.error))
            job.error = InputError('; '.join(map(str, texts)))
        self.frame_error, self.frame_errors = None, 0


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Map items in a pool's threads; yield the results in order, at most ``ahead`` items late."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > ahead or running[0].done():
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def in_thread(pool: Executor, items: Iterator[Item]) -> Iterator[Item]:
    """Iterate in the thread of a pool, one item ahead."""
    found = in_order(pool, lambda _: list(islice(items, 1)), repeat(None), 1)
    return chain.from_iterable(takewhile(bool, found))


def in_batches(items: Iterator[Item], size: Callable[[], int]) -> Iterator[list[Item]]:
    """Yield lists of items, each as long as ``size`` says then."""
    while batch := list(islice(items, size())):
        yield batch
