"""Spawned processes, which start without the operators of the process that starts them.

A spawned process reads a pickle, with mmdet's data set in it. Reading it imports mmdet, which needs
mmcv's compiled module at once. So the pickle starts with a function of this package, which Python
imports first.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

__all__ = ['register']


def register() -> None:
    """Make worker processes of torch import this package, with any start method.

    Other processes stay as they are: the import takes seconds, and torch's import torch anyway. A
    second call changes nothing.
    """
    methods = multiprocessing.get_all_start_methods()
    contexts: list[Any] = [multiprocessing.get_context(method) for method in methods]
    # multiprocessing.Process is for programs that set one start method for all.
    for process_type in {multiprocessing.Process, *(context.Process for context in contexts)}:
        ForkingPickler.register(process_type, _reduce)


def _reduce(process: BaseProcess) -> tuple:
    """Reduce a process as pickle does; one that torch runs imports this package first."""
    reduced: Any = process.__reduce_ex__(2)
    make, args, state, *rest = reduced
    # Python has no public name for the target of a process.
    target = getattr(state['_target'], '__module__', None) or ''
    if target.partition('.')[0] == 'torch':
        make, args = _make_after_import, (make, *args)
    return make, args, state, *rest


def _make_after_import(make: Callable, *args: Any) -> Any:
    """Make an object; unpickling this function imports the package."""
    return make(*args)
