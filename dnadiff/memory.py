"""Measures free memory, and keeps freed memory in the process for reuse."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_SETTINGS = "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"


def free_memory(device: torch.device) -> int:
    """Returns the bytes that can be allocated on a device now; 1 GiB if that is not known."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return system_memory()["available"] or 1 << 30


def system_memory() -> dict[str, int | None]:
    """Returns the bytes of memory, "total" and "available"; None for what is not known."""
    if not Path("/proc/meminfo").exists():
        # macOS knows the total, Windows has no sysconf at all.
        if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
            return {"total": None, "available": None}
        pages = os.sysconf("SC_PHYS_PAGES")
        return {"total": pages * os.sysconf("SC_PAGE_SIZE"), "available": None}
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kibibytes = {words[0]: int(words[1]) for words in lines}
    return {"total": 1024 * kibibytes["MemTotal:"], "available": 1024 * kibibytes["MemAvailable:"]}


@functools.cache
def keep_freed_memory() -> None:
    """Sets the C library to reuse freed memory for later tensors, on Linux with glibc.

    By default every large tensor gets new memory, which the system must fill with zeros page by
    page, and returns it when it is freed: up to half of the time of a training step. The price is a
    process that stays as large as it has ever been. So dnadiff's commands and `pretrain` do this,
    and its kernels do not. Nothing is changed if one of glibc's own environment variables for this
    is set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SETTINGS):
        return
    # Tensors below 1 GiB come from the heap, and up to 2 GiB of it stay when they are freed.
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
