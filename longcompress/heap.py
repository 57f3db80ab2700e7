"""C libraries keep memory for the next time: how much they may keep, and what goes back to the system.

Functions that do nothing with libraries that have no such settings.
"""

import ctypes
import os
import sys
from collections.abc import Callable

ARENA_MAX, MMAP_THRESHOLD = -8, -3  # of malloc.h
LARGE = 1 << 16  # bytes
KERNELS = 64  # `tiny` with its encoders has 36


def return_large_blocks() -> None:
    """From now on freed blocks of LARGE bytes and more, such as tensors, return to the system at once."""
    if set_option := _function("mallopt"):
        set_option(MMAP_THRESHOLD, LARGE)


def share_one_heap() -> None:
    """Threads that start from now on allocate in one heap, not in a new one each."""
    if set_option := _function("mallopt"):
        set_option(ARENA_MAX, 1)


def return_free_pages() -> None:
    """Pages on which nothing is left return to the system, also those between others."""
    if trim := _function("malloc_trim"):
        trim(0)


def keep_few_kernels() -> None:
    """oneDNN, which computes convolutions and GELU on a CPU, makes a kernel for each shape. From now on it
    keeps the last KERNELS instead of 1,024, which have up to 2 MB each. Its own variable, where it is set,
    comes first. In this process: only if nothing has been computed yet."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def _function(name: str) -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return function
