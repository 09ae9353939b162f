"""How much memory there is, and memory that is used again instead of being asked for again."""

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
    """Bytes that can be had on a device now; where the system does not say, 1 GiB."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return system_memory()["available"] or 1 << 30


def system_memory() -> dict[str, int | None]:
    """Bytes of memory, "total" and "available"; None where the system does not say."""
    if not Path("/proc/meminfo").exists():
        pages = (
            os.sysconf("SC_PHYS_PAGES")
            if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})
            else None
        )
        return {"total": pages and pages * os.sysconf("SC_PAGE_SIZE"), "available": None}
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kibibytes = {words[0]: int(words[1]) for words in lines}
    return {"total": 1024 * kibibytes["MemTotal:"], "available": 1024 * kibibytes["MemAvailable:"]}


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
