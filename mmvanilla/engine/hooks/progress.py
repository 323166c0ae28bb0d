"""A bar that shows where a run stands, to whoever watches it on a terminal."""

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
    """Show a training, validation or test as a bar for as long as the context lasts.

    The bar has the time that is left, the losses as they are logged (means of the last iterations)
    and ``act_learn``. LoggerHook's lines of single iterations then go to the log file only; all
    other output stands above the bar. Only the first process shows one.

    Args:
        runner: What is about to run.
        mode: ``'rich'`` shows the bar, ``'plain'`` does not, ``'auto'`` does if stdout is a
            terminal.
    """
    console = _Console(soft_wrap=True, highlight=False, force_terminal=mode == 'rich' or None)
    watched = console.is_interactive and (mode == 'rich' or sys.stdout.isatty())
    if mode == 'plain' or not watched or not is_main_process():
        yield
        return
    stdout = sys.stdout
    handlers = [
        handler
        for handler in runner.logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stdout
    ]
    # No thread draws: a worker forked while it did could never print, for the lock would stay held.
    with Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty()) as live:
        runner.register_hook(_ProgressHook(live))
        for handler in handlers:
            handler.setStream(sys.stdout)  # which prints above the bar now
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
    """One that never hides the cursor, so that no kill leaves a terminal without."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _ProgressHook(Hook):
    """Draw bars of the training and of the validation or test that is running."""

    priority = 'VERY_LOW'  # when the iteration is logged

    def __init__(self, live: Live) -> None:
        columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()
        # Over so long a time that slow iterations and the validations between them count.
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
        scalars = runner.message_hub.log_scalars
        names = [name for name in scalars if name.startswith('train/') and 'loss' in name]
        logged = {name.removeprefix('train/'): scalars[name].mean(window) for name in names}
        if 'train/act_learn' in scalars:
            logged['act_learn'] = scalars['train/act_learn'].current()
        self._values.plain = '  '.join(f'{name} {value:.4f}' for name, value in logged.items())
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
