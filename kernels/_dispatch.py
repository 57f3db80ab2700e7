"""The one rule that says which code runs an operation: Triton or the torch reference."""

import os
from importlib.util import find_spec
from itertools import pairwise

from torch import Tensor

TRITON_OPS: frozenset[str] = frozenset()  # operations that have a `*_triton.py` beside them; none yet


def use_triton(op: str, x: Tensor) -> bool:
    """True where `op` has a Triton kernel and x can go there: CUDA, or the CPU under Triton's interpreter."""
    if op not in TRITON_OPS or find_spec("triton") is None:
        return False
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def check_offsets(offsets: Tensor, num_tokens: int) -> list[int]:
    """offsets (S + 1,) as a list, or ValueError: it must rise from 0 to num_tokens."""
    if offsets.dim() != 1 or len(offsets) < 1 or offsets.is_floating_point():
        raise ValueError(f"offsets must be (S + 1,) integers, got {tuple(offsets.shape)} {offsets.dtype}")
    at: list[int] = offsets.tolist()
    if at[0] != 0 or at[-1] != num_tokens or any(a > b for a, b in pairwise(at)):
        raise ValueError(
            f"offsets must rise from 0 to N = {num_tokens}, got {at if len(at) < 9 else at[:4] + at[-4:]}"
        )
    return at
