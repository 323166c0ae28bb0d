"""Memory that is freed stays with the process, so that the next call need not fault it in again."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
KEPT = 2**30  # bytes; more than that at the end of the heap goes back to the system


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, up to 1 GiB at the heap's end, for the whole process.

    Without it every large tensor is mapped anew, and touching its pages first costs several times
    what a ReLU over it does.

    Returns:
        Whether that was possible: on Linux with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEPT))
