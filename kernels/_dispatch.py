"""The one rule that says which code runs an operation: Triton or the torch reference."""

import os
import sys
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor

TRITON_OPS = frozenset({"attend", "metric", "novelty", "plan", "pool"})  # have a `*_triton.py` beside them
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NARROW = 128  # channels; rows of no more are pooled token by token, in float64 too


def use_triton(op: str, x: Tensor) -> bool:
    """True where `op` has a Triton kernel and x can go there: CUDA, or the CPU under Triton's interpreter."""
    if not (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        return False
    if op not in TRITON_OPS:
        return False
    precise = x.dtype == torch.float64 and op == "pool" and x.shape[1] <= NARROW  # times
    if x.dtype not in TRITON_DTYPES and not precise:
        return False
    return "triton" in sys.modules or find_spec("triton") is not None


def can_wait(x: Tensor) -> bool:
    """Whether x's values may be looked at now: not while a graph is compiled, or captured on its device."""
    if torch.compiler.is_compiling():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def one_device(**tensors: Tensor | None) -> None:
    """ValueError unless all tensors given are on one device."""
    devices = {name: t.device for name, t in tensors.items() if t is not None}
    if len(set(devices.values())) > 1:
        told = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{' and '.join(devices)} must be on one device, got {told}")


def check_offsets(offsets: Tensor, num_tokens: int) -> list[int]:
    """offsets (S + 1,) as a list, or ValueError: it must rise from 0 to num_tokens."""
    if offsets.dim() != 1 or len(offsets) < 1 or offsets.is_floating_point():
        raise ValueError(f"offsets must be (S + 1,) integers, got {tuple(offsets.shape)} {offsets.dtype}")
    if not can_wait(offsets):
        raise ValueError(
            "offsets must be on the CPU while a CUDA graph is captured: they decide what is launched"
        )
    at: list[int] = offsets.tolist()
    if at[0] != 0 or at[-1] != num_tokens or any(a > b for a, b in pairwise(at)):
        raise ValueError(
            f"offsets must rise from 0 to N = {num_tokens}, got {at if len(at) < 9 else at[:4] + at[-4:]}"
        )
    return at
