"""glibc keeps much of what is freed for the next allocation: what of it goes back to the system.

Functions that do nothing with C libraries that have no such settings. Python's table of names grows late too.
"""

import ctypes
import sys
from collections.abc import Callable

ARENA_MAX, MMAP_THRESHOLD = -8, -3  # of malloc.h
LARGE = 1 << 16  # bytes


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


def make_room_for_names() -> None:
    """Python's table of names, such as those in paths, grows once by 4 MB, when many thousand have come and
    gone: now, not after thousands of requests."""
    for number in range(1 << 15):
        sys.intern(f"name {number}")


def _function(name: str) -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return function
