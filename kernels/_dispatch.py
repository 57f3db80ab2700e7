"""The one rule that says which code runs an operation: Triton or the torch reference."""

import os
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor

TRITON_OPS = frozenset(
    {"attend", "novelty", "plan", "pool"}
)  # operations that have a `*_triton.py` beside them
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def use_triton(op: str, x: Tensor) -> bool:
    """True where `op` has a Triton kernel and x can go there: CUDA, or the CPU under Triton's interpreter."""
    if op not in TRITON_OPS or x.dtype not in TRITON_DTYPES or not _has_triton():
        return False
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def can_wait(x: Tensor) -> bool:
    """Whether values on x's device may be looked at now: not while a graph is captured there."""
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


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
