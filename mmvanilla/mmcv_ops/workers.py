"""Processes that are spawned: each begins empty and must get the operators like the first one.

What a spawned process is to do comes to it as a pickle, with mmdet's data set inside. To read that
is to import mmdet, which asks for the compiled module of mmcv before anything else of the program
runs. So a process is pickled behind a function of this package, which Python imports first.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

__all__ = ['register']


def register() -> None:
    """Let data-loading workers that are spawned, or come from a fork server, import this package.

    So do all processes that torch starts, of which each imports torch in any case. Others, such as
    those of a program's own pool, are left as they are, since the import takes seconds. Calling it
    again changes nothing.
    """
    methods = multiprocessing.get_all_start_methods()
    contexts: list[Any] = [multiprocessing.get_context(method) for method in methods]
    # The first is what a program gets that sets a start method for all.
    for kind in {multiprocessing.Process, *(context.Process for context in contexts)}:
        ForkingPickler.register(kind, _reduce)


def _reduce(process: BaseProcess) -> tuple:
    """Do what pickle does with any object; what torch runs is made by the function below."""
    reduced: Any = process.__reduce_ex__(2)
    make, args, state, *rest = reduced
    # Python has no public way to ask a process for what it is to run.
    target = getattr(state['_target'], '__module__', None) or ''
    if target.partition('.')[0] == 'torch':
        make, args = _make_after_import, (make, *args)
    return make, args, state, *rest


def _make_after_import(make: Callable, *args: Any) -> Any:
    """Make an object, now that to find this function its package was imported."""
    return make(*args)
