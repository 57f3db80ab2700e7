"""What is freed between small allocations returns to the system; kernels of few shapes are kept."""

import os
import re
import subprocess
import sys

import pytest
import torch

KERNELS = 64


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


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_names_that_come_and_go_take_no_memory_later():
    code = """
import sys
import longcompress.serve.app  # the table is as a server has it
from longcompress import heap
from longcompress.eval.bench.timer import resident_mb

heap.make_room_for_names()
before = resident_mb(None)
for number in range(40_000):
    sys.intern(f"path {number}")
print(resident_mb(None) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1  # 3.7 without


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN keeps no kernels")
def test_kernels_of_the_last_shapes_are_kept_and_no_others():
    code = f"""
from longcompress.cli.main import main
main(["models"])
import torch
for rows in [*range(1, {KERNELS} + 2), {KERNELS} + 1, 1]:
    torch.nn.functional.gelu(torch.zeros(rows, 64))
"""
    env = os.environ | {"ONEDNN_VERBOSE": "profile_create"}
    env.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    kernels = re.findall(r"create:cache_(hit|miss),cpu,eltwise", done.stdout)
    assert kernels == ["miss"] * (KERNELS + 1) + ["hit", "miss"]
