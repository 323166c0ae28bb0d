"""Keep freed memory in the process, so that the next call does not fault it in again."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, up to 1 GiB at the heap's end, for the whole process.

    Otherwise every large tensor is mapped again, and the first access to its pages takes several
    times as long as a ReLU over it.

    Returns:
        Whether the C library supports it: on Linux with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
