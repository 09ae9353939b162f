"""Memory that is used again instead of being asked for again."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_SETTINGS = "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"


@functools.cache
def keep_freed_memory() -> None:
    """Tells the C library to keep what is freed for the next tensor of that size, on Linux with glibc.

    By default every large tensor is new memory that the system must fill with zeros page by page, and gives back when
    it is freed: up to half of the time of a training step. The price is a process that stays as large as it once
    was, so this is for whoever owns the process: dnadiff's commands and `pretrain` do it, a kernel does not. Whoever
    has set glibc's own environment variables for this is left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SETTINGS):
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
