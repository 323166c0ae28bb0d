"""A progress bar for the terminal."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

INTERVAL = 0.1  # seconds from one drawing of the bar to the next


@contextmanager
def progress_bar(runner: Runner, mode: str = 'auto') -> Iterator[None]:
    """Show the progress of a training, validation or test as a bar in the first process.

    The bar has the remaining time, the losses (means of the last iterations, as in the log) and
    ``act_learn``. LoggerHook's lines of single iterations then go to the log file only.

    Args:
        runner: The runner, before it starts.
        mode: ``'rich'`` for a bar, ``'plain'`` for none, ``'auto'`` for a bar on a terminal.
    """
    console = _Console(soft_wrap=True, highlight=False, force_terminal=mode == 'rich' or None)
    watched = console.is_interactive and (mode == 'rich' or sys.stdout.isatty())
    if mode == 'plain' or not watched or not is_main_process():
        yield
        return
    stdout = sys.stdout
    streams = [h for h in runner.logger.handlers if isinstance(h, logging.StreamHandler)]
    handlers = [handler for handler in streams if handler.stream is stdout]
    # Without a thread: a worker that is forked while it draws would inherit a lock that stays held.
    with Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty()) as live:
        runner.register_hook(_ProgressHook(live))
        for handler in handlers:
            handler.setStream(sys.stdout)  # prints above the bar
            handler.addFilter(_is_no_iteration)
        try:
            yield
        finally:
            for handler in handlers:
                handler.setStream(stdout)
                handler.removeFilter(_is_no_iteration)


def _is_no_iteration(record: logging.LogRecord) -> bool:
    return not (record.module == 'logger_hook' and record.funcName.endswith('_iter'))


class _Console(Console):
    """A console that never hides the cursor, which a kill would leave hidden."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _ProgressHook(Hook):
    """Draw one bar for the training and one for the current validation or test."""

    priority = 'VERY_LOW'  # after the iteration is logged

    def __init__(self, live: Live) -> None:
        columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()
        # The estimate covers an hour, so that it includes validations.
        self._bars = Progress(*columns, TimeRemainingColumn(), speed_estimate_period=3600)
        self._values = Text(no_wrap=False, overflow='fold')
        self._live = live
        self._drawn = 0.0
        live.update(self._bars)

    def before_train(self, runner: Runner) -> None:
        self._train = self._bars.add_task('train', total=runner.max_iters, completed=runner.iter)
        self._live.update(Group(self._bars, self._values))

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        name = f'epoch {runner.epoch + 1}/{runner.max_epochs}' if epochs else 'train'
        self._bars.update(self._train, completed=runner.iter + 1, description=name)
        window = runner.log_processor.window_size
        scalars = runner.message_hub.log_scalars.items()
        logs = [(*key.partition('/'), log) for key, log in scalars]
        logs.sort(key=lambda log: log[2] == 'act_learn')  # after the losses
        self._values.plain = '  '.join(
            f'{name} {log.current() if name == "act_learn" else log.mean(window):.4f}'
            for mode, _, name, log in logs
            if mode == 'train' and ('loss' in name or name == 'act_learn')
        )
        self._draw()

    def before_val_epoch(self, runner: Runner) -> None:
        self._test = self._bars.add_task('val', total=len(runner.val_dataloader))

    def before_test_epoch(self, runner: Runner) -> None:
        self._test = self._bars.add_task('test', total=len(runner.test_dataloader))

    def after_val_iter(self, *args: object, **kwargs: object) -> None:
        self._bars.advance(self._test)
        self._draw()

    def after_val_epoch(self, *args: object, **kwargs: object) -> None:
        self._bars.remove_task(self._test)

    after_test_iter = after_val_iter

    def _draw(self) -> None:
        if time.monotonic() - self._drawn > INTERVAL:
            self._live.refresh()
            self._drawn = time.monotonic()
