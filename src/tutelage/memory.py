"""The memory of this process: what glibc's allocator keeps, what goes back to the system, how much is resident."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Numbers of ``mallopt``'s settings."""


@cache
def _glibc() -> Any:
    """The C library, where it is glibc and the user has set nothing about its allocator."""
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    try:
        known = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
        return ctypes.CDLL("libc.so.6") if known else None
    except (AttributeError, ValueError, OSError):  # another system or another library
        return None


def keep() -> None:
    """Have freed memory stay with the process, for the next tensors. By its defaults glibc returns that of large tensors to the
    system, and gets it anew, zeroed page by page, in each step."""
    if (libc := _glibc()) is not None:
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, -1)


def trim() -> None:
    """Return what is free to the system. For the end of a stage or an evaluation: the next may need less."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def resident_mb() -> int | None:
    """MB of memory that the process holds now, on Linux."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
    except OSError:
        return None


@contextmanager
def uncollected() -> Iterator[None]:
    """Switch the cyclic garbage collector off meanwhile. It takes a quarter of the time where millions of objects are made that
    have no cycles."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
