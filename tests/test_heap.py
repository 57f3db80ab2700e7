"""What is freed between small allocations returns to the system."""

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no such functions")
def test_pages_between_others_return():
    code = """
import ctypes
from longcompress import heap

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
heap.share_one_heap()
blocks = []
for _ in range(2000):  # a large one that is freed, a small one that stays behind it
    large, small = libc.malloc(60_000), libc.malloc(100)
    ctypes.memset(large, 1, 60_000)
    blocks.append(large)
held = resident()
for block in blocks:
    libc.free(ctypes.c_void_p(block))
kept = resident()
heap.return_free_pages()
print(held - kept, held - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, behind = map(int, done.stdout.split())
    assert before < 20_000_000 < 100_000_000 < behind
