"""Time calls in turn in separate processes.

Memory allocators, threads and global switches of one call then do not affect another.
"""

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress

from .. import UserError
from .machine import cpu_seconds, describe, disturbances
from .results import Measurement, Row
from .settings import Settings
from .timing import Times, time_call

PAUSE = 0.02  # s, after which OpenMP threads of the last call no longer spin
CONTEXT: Any = multiprocessing.get_context('spawn')

Name = TypeVar('Name')
Prepare = Callable[[int], Callable[[], object]]
Make = Callable[[], tuple[Prepare, dict[str, Any]]]


class Failure(NamedTuple):
    """Why a call cannot be measured; ``missing`` as in ``Row``."""

    reason: str
    missing: bool = False


@dataclass
class Conditions:
    """How calls are timed, in every process.

    Attributes:
        device: Where the calls compute.
        min_ms: Shortest turn in ms: the call is repeated, and the median counts.
        context: Returns a context manager that is entered first, such as a dtype's.
        threads: CPU threads; by default this process's.
        cudnn_benchmark: Value of the switch; by default this process's.
    """

    device: str = 'cpu'
    min_ms: float = 0.0
    context: Callable[[], AbstractContextManager] = nullcontext
    threads: int = field(default_factory=torch.get_num_threads)
    cudnn_benchmark: bool = field(default_factory=lambda: torch.backends.cudnn.benchmark)


def take_turns(
    makes: Mapping[Any, Make],
    repeat: int,
    warmup: int = 1,
    conditions: Conditions | None = None,
    console: Console | None = None,
) -> Measurement:
    """Time calls in turn in separate processes.

    Each round starts with another call (A B C, B C A, ...), because a call changes caches and
    memory for the next one. A call that fails gets the reason in its row and is left out from then
    on. Ctrl-C ends the run early with the rounds so far.

    Args:
        makes: Functions by name. Each is called once in its process and returns a function of the
            round (negative in the warm-up) that returns the call to time, and the ``metadata`` of
            the row. They are pickled: use a module's function or a ``partial`` of one, and
            ``if __name__ == '__main__'`` in scripts.
        repeat: Rounds that count.
        warmup: Rounds before them.
        conditions: How calls are timed.
        console: Where to show progress.
    """
    conditions = conditions or Conditions()
    settings = Settings(device=conditions.device, warmup=warmup, repeat=repeat)
    rows = [Row(str(name)) for name in makes]
    date, machine = time.strftime('%Y-%m-%d'), describe(conditions.device)
    result = Measurement(rows, settings, machine, date, complete=False)
    workers: list[Worker] = []
    before = cpu_seconds()
    with Progress(console=console, disable=console is None, transient=True) as progress:
        try:
            for row, make in zip(rows, makes.values(), strict=True):
                workers.append(Worker(row, make, conditions))  # all at once: imports take seconds
            for worker in progress.track(workers, description='building'):
                worker.row.metadata = worker.ask(None) or {}
            built = [worker for worker in workers if not worker.row.reason]
            turns = list(rotated(built, warmup, repeat))
            for turn, worker in progress.track(turns, description='measuring'):
                elapsed = worker.ask(turn)
                if elapsed is not None and turn >= 0:
                    worker.row.times.values.append(elapsed)
            result.complete = True
        except KeyboardInterrupt:
            pass
        finally:
            for worker in workers:
                worker.end()
    result.warnings += disturbances(before)
    return result


def in_turn(
    prepares: Mapping[Name, Prepare],
    repeat: int,
    warmup: int = 1,
    conditions: Conditions | None = None,
) -> dict[Name, Times]:
    """Time calls in turn in this process; their errors are raised.

    Args:
        prepares: Functions of the round, by name, that return the call to time.
        repeat: Rounds that count.
        warmup: Rounds before them.
        conditions: How calls are timed.
    """
    conditions = conditions or Conditions()
    times = {name: Times() for name in prepares}
    with conditions.context():
        for turn, name in rotated(list(prepares), warmup, repeat):
            elapsed = time_turn(prepares[name](turn), conditions)
            if turn >= 0:
                times[name].values.append(elapsed)
    return times


def rotated(names: list[Name], warmup: int, repeat: int) -> Iterator[tuple[int, Name]]:
    """Yield round and name of every turn; rounds of the warm-up are negative."""
    for turn in range(-warmup, repeat):
        yield from ((turn, name) for name in names)
        names = names[1:] + names[:1]


class Worker:
    """A process with one call.

    Args:
        row: Receives the reason if the call fails.
        make: See ``take_turns``.
        conditions: How the call is timed.
    """

    def __init__(self, row: Row, make: Make, conditions: Conditions) -> None:
        self.row = row
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, make, conditions), daemon=True)
        try:
            with inherited():
                self.process.start()
        except Exception as error:  # make cannot be pickled
            self._fail(Failure(explain(error)))
        theirs.close()

    def ask(self, turn: int | None) -> Any:
        """Return the ms of a turn, the metadata of a new call for None, or None after a failure."""
        if self.row.reason:
            return None
        try:
            self.pipe.send(turn)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            answer = Failure(describe_exit(self.process.exitcode))
        if isinstance(answer, Failure):
            return self._fail(answer)
        time.sleep(PAUSE)
        return answer

    def end(self) -> None:
        """End the process."""
        if self.process.pid:
            self.process.terminate()
            self.process.join()

    def _fail(self, failure: Failure) -> None:
        self.row.reason, self.row.missing = failure
        self.row.times, self.row.metadata = Times(), {}


@contextmanager
def inherited() -> Iterator[None]:
    """Let processes started here ignore ctrl-C and Python warnings."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = dict(os.environ)
    os.environ['PYTHONWARNINGS'] = 'ignore'
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        del os.environ['PYTHONWARNINGS']
        os.environ.update(before)


def serve(pipe: Any, make: Make, conditions: Conditions) -> None:
    """Make a call and time it on request, until the first error."""
    torch.set_num_threads(conditions.threads)
    torch.backends.cudnn.benchmark = conditions.cudnn_benchmark
    answer: Any
    try:
        with conditions.context():
            while True:
                turn = pipe.recv()
                if turn is None:
                    prepare, answer = make()
                else:
                    answer = time_turn(prepare(turn), conditions)
                pipe.send(answer)
    except EOFError:  # the parent process is gone
        pass
    except (Exception, SystemExit) as error:
        pipe.send(Failure(explain(error), isinstance(error, (ImportError, UserError))))


def time_turn(call: Callable[[], object], conditions: Conditions) -> float:
    """Return the median ms of a call, repeated for at least ``min_ms``."""
    times = [time_call(call, conditions.device)]
    while sum(times) < conditions.min_ms:
        times.append(time_call(call, conditions.device))
    return statistics.median(times)


def explain(error: BaseException) -> str:
    """Say in one line why a model cannot be measured."""
    if isinstance(error, ModuleNotFoundError):
        return f'needs the package {str(error.name).partition(".")[0]}'
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return 'too little memory'
    message = ' '.join(str(error).split())
    return message if isinstance(error, UserError) else f'{type(error).__name__}: {message[:200]}'


def describe_exit(code: int | None) -> str:
    """Say how a process ended unexpectedly."""
    if code is not None and code < 0:
        return f'its process was killed by signal {-code}, perhaps for lack of memory'
    return f'its process ended with exit code {code}'
