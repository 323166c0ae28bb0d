"""SIGTERM and SIGINT in a training: pre-emption by Slurm, Ctrl-C."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class noted_signals:
    """Note SIGTERM and SIGINT within a block, instead of ending at once.

    Python allows this in the main thread only. The previous handlers are restored at the end of the
    block, also after an error, and in every process that is forked within the block.
    """

    active: 'noted_signals | None' = None

    def __enter__(self) -> 'noted_signals':
        """Take over the signals."""
        self.received = 0
        self._previous: dict = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        noted_signals.active = self
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back."""
        noted_signals.active = None
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: object) -> None:
        self.received = number


_fork = threading.local()  # the signal mask of the thread that forks


def _before_fork() -> None:
    block = SIGNALS if noted_signals.active else ()
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, block)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _in_child() -> None:
    if noted_signals.active:
        noted_signals.active.__exit__()
    _after_fork()


# A process pool of a metric ends its processes by SIGTERM, immediately if there is nothing to do.
# They must neither note nor lose the signal before the previous handlers are restored.
if hasattr(os, 'register_at_fork'):  # Windows has no forks
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


@contextmanager
def held_signals() -> Iterator[None]:
    """Block SIGTERM and SIGINT while processes start; they inherit the blocked signals."""
    if not hasattr(signal, 'pthread_sigmask'):  # Windows blocks no signals
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StartWorker:
    """Start a data-loading worker that ends when its parent says so.

    Slurm signals every process of a job, and a terminal its whole group. Training needs its
    workers until it has saved.

    Args:
        then: The ``worker_init_fn`` of the loader, called after that.
    """

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Ignore SIGINT; on Linux, also SIGTERM unless the parent sends it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, 'sigwaitinfo'):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        elif hasattr(signal, 'pthread_sigmask'):  # macOS does not name the sender
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if self.then:
            self.then(worker_id)


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
