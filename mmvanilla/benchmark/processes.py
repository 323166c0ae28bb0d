"""The measuring core: calls that take turns, each in a process of its own.

So no call decides how another's memory is allocated, which threads run or what is switched on.
"""

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress

from .. import UserError
from .machine import Watch
from .peak_memory import bounded_memory, is_out_of_memory
from .timing import Clock, Times

# Threads of OpenMP spin for some ms after a call before they sleep; till then nobody is timed.
PAUSE = 0.02
SPAWN: Any = multiprocessing.get_context('spawn')
MAKE, END = 'make', 'end'  # what a worker is told, besides the numbers of rounds

Key = TypeVar('Key', bound=Hashable)
Prepare = Callable[[int], Callable[[], object]]
Make = Callable[[], tuple[Prepare, Any]]


class Failed(Exception):
    """Why a call cannot be measured.

    Args:
        reason: In one line.
        lacking: Whether a package or an ability of the machine is missing, so nothing went wrong.
    """

    def __init__(self, reason: str, lacking: bool = False) -> None:
        super().__init__(reason, lacking)
        self.reason, self.lacking = reason, lacking


@dataclass
class Conditions:
    """How calls are timed, the same in every process; threads and cudnn are set as they are here.

    Attributes:
        device: Where they compute.
        least: A turn takes so many ms or more, and the median of its calls counts; at 0 one call.
        within: Gives what is entered before anything is made, such as a precision.
    """

    device: str = 'cpu'
    least: float = 0.0
    within: Callable[[], AbstractContextManager] = nullcontext
    threads: int = field(default_factory=torch.get_num_threads)
    cudnn_benchmark: bool = field(default_factory=lambda: torch.backends.cudnn.benchmark)


@dataclass
class Result:
    """What became of one call.

    Attributes:
        kept: What its maker told of it; None if it could not be made.
        times: Latencies in ms, one a round.
        failed: Why it was given up; None if it was not.
    """

    kept: Any = None
    times: Times = field(default_factory=Times)
    failed: Failed | None = None


@dataclass
class Run:
    """The results by name, whether all rounds were run, and what disturbed them, in sentences."""

    results: dict[Any, Result]
    complete: bool = False
    disturbances: list[str] = field(default_factory=list)


def take_turns(
    makes: Mapping[Key, Make],
    repeat: int,
    warmup: int = 1,
    conditions: Conditions | None = None,
    console: Console | None = None,
) -> Run:
    """Time calls in turn: A B C, B C A, ..., after rounds that are not counted.

    Every round begins with another one, since what a call leaves behind in caches and memory slows
    or speeds the next. One that fails is left out from then on, and the others go on. After ctrl-C
    what there is is returned.

    Args:
        makes: By name, a function that is called in the process of its own. It returns a function
            of the round (warm-up rounds are negative) that returns the call to time, and what is to
            be known of it here. Both must be fit to be pickled: a function of a module, or a
            ``partial`` of one. A script needs its ``if __name__ == '__main__'``.
        repeat: Rounds that count.
        warmup: Rounds before.
        conditions: How calls are timed.
        console: Where progress is shown; nowhere unless given.
    """
    conditions = conditions or Conditions()
    run = Run({name: Result() for name in makes})
    workers: dict[Key, Worker] = {}
    watch = None

    @contextmanager
    def giving_up(name: Key) -> Iterator[None]:
        try:
            yield
        except Failed as failed:
            run.results[name].failed = failed
            if name in workers:
                workers.pop(name).end()

    with Progress(console=console, disable=console is None, transient=True) as progress:
        try:
            for name, make in makes.items():  # all at once, since imports take seconds
                with giving_up(name):
                    workers[name] = Worker(make, conditions)
            for name in progress.track(list(workers), description='building'):
                with giving_up(name):
                    run.results[name].kept = workers[name].ask(MAKE)
            watch = Watch(conditions.device, [worker.pid for worker in workers.values()]).start()
            turns = list(rotated(list(workers), warmup, repeat))
            for turn, name in progress.track(turns, description='measuring'):
                if name in workers:
                    with giving_up(name):
                        elapsed = workers[name].ask(turn)
                        if turn >= 0:
                            run.results[name].times.values.append(elapsed)
            run.complete = True
        except KeyboardInterrupt:
            pass
        finally:
            run.disturbances = watch.disturbances() if watch else []
            for worker in workers.values():
                worker.end(at_once=not run.complete)
    return run


def in_turn(
    prepares: dict[Key, Prepare],
    repeat: int,
    warmup: int = 1,
    conditions: Conditions | None = None,
) -> dict[Key, Times]:
    """Time calls that share this process and thread, in the same turns; what they raise is raised.

    Args:
        prepares: By name, functions of the round that return the call to time.
        repeat: Rounds that count.
        warmup: Rounds before.
        conditions: How calls are timed.
    """
    conditions = conditions or Conditions()
    clock = Clock(conditions.device)
    times: dict[Key, Times] = {name: Times() for name in prepares}
    with conditions.within():
        for turn, name in rotated(list(prepares), warmup, repeat):
            elapsed = time_turn(prepares[name](turn), clock, conditions.least)
            if turn >= 0:
                times[name].values.append(elapsed)
    return times


def rotated(names: list[Key], warmup: int, repeat: int) -> Iterator[tuple[int, Key]]:
    """Yield round and name of every turn; those of the warm-up are negative."""
    for turn in range(-warmup, repeat):
        yield from ((turn, name) for name in names)
        names = names[1:] + names[:1]


class Worker:
    """A process, or a thread, with one call.

    Args:
        make: See ``take_turns``; likewise the others.

    Raises:
        Failed: If it cannot be pickled.
    """

    def __init__(self, make: Make, conditions: Conditions) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve, args=(theirs, make, conditions))
        self.process.daemon = True
        try:
            with inherited():
                self.process.start()
        except Exception as error:
            raise Failed(explain(error)) from error
        self.pid = getattr(self.process, 'pid', None)
        if self.pid:
            theirs.close()

    def ask(self, what: str | int) -> Any:
        """Return what is kept of the call that it is to make, or the ms of its turn.

        Raises:
            Failed: If that failed.
        """
        try:
            self.pipe.send(what)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Failed(describe_end(self.process.exitcode)) from None
        if isinstance(answer, Failed):
            raise answer
        time.sleep(PAUSE)
        return answer

    def end(self, at_once: bool = False) -> None:
        """End it, when its call is done or at once; a thread has to be waited for."""
        if at_once and self.pid:
            self.process.terminate()
        with suppress(OSError):
            self.pipe.send(END)
        self.process.join()


@contextmanager
def inherited() -> Iterator[None]:
    """Let processes that start ignore ctrl-C, which is for this one, and not warn once more."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings = os.environ.get('PYTHONWARNINGS')
    os.environ['PYTHONWARNINGS'] = 'ignore'
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        del os.environ['PYTHONWARNINGS']
        if warnings is not None:
            os.environ['PYTHONWARNINGS'] = warnings


def serve(pipe: Any, make: Make, conditions: Conditions) -> None:
    """Make a call and time it whenever that is asked for: the work of a process."""
    torch.set_num_threads(conditions.threads)
    torch.backends.cudnn.benchmark = conditions.cudnn_benchmark
    try:
        clock = Clock(conditions.device)
        with conditions.within():
            while (what := pipe.recv()) != END:
                with bounded_memory():
                    if what == MAKE:
                        prepare, answer = make()
                    else:
                        answer = time_turn(prepare(what), clock, conditions.least)
                pipe.send(answer)
    except EOFError:  # nobody asks any more
        pass
    except Failed as failed:
        pipe.send(failed)
    except (Exception, SystemExit) as error:
        pipe.send(Failed(explain(error), isinstance(error, (ImportError, UserError))))


def time_turn(call: Callable[[], object], clock: Callable, least: float) -> float:
    """Return the median of the ms that calls take, of which there are ``least`` ms and one."""
    times = [clock(call)]
    while sum(times) < least:
        times.append(clock(call))
    return statistics.median(times)


def explain(error: BaseException) -> str:
    """Say in one line why something cannot be measured."""
    if isinstance(error, ModuleNotFoundError):
        return f'needs the package {str(error.name).partition(".")[0]}'
    if is_out_of_memory(error):
        return 'too little memory'
    text = ' '.join(str(error).split())
    return text if isinstance(error, UserError) else f'{type(error).__name__}: {text[:200]}'


def describe_end(code: int | None) -> str:
    """Say how a process ended that should not have."""
    if code is not None and code < 0:
        return f'its process was killed by signal {-code}, perhaps for want of memory'
    return f'its process ended with exit code {code}'
