"""Memory that a process has freed stays with it, in place of being page-faulted anew for every feature map."""

from __future__ import annotations

import ctypes
import os

# glibc's mallopt: the parameter's number, its value in bytes, and the environment variable that says the same.
_SETTINGS = (
    (-3, 1 << 30, "MALLOC_MMAP_THRESHOLD_"),  # smaller blocks come from the heap
    (-1, (1 << 31) - 1, "MALLOC_TRIM_THRESHOLD_"),  # which is given back only above this
    (-2, 1 << 26, "MALLOC_TOP_PAD_"),  # and grows by this at least
)


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep freed blocks; for a process's first lines, since it holds for all of it.

    As it comes, blocks of megabytes, which images and feature maps are, go back to the system when they are freed:
    every layer of a network then waits for the pages of its output. What the user has set in the environment stays,
    and where there is no glibc nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for number, size, variable in _SETTINGS:
        if variable not in os.environ:
            mallopt(number, size)
