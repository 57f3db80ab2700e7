"""`novelty` as one Triton kernel: each row and the one before it are read, one number is written."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import aligned, operator

ROWS = 32  # rows of a program


@triton.jit(do_not_specialize=["num"])
def novelty_kernel(metric, previous, out, num, D: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """out[i] = 1 - cosine of metric[i] and metric[previous[i]]; WIDE is the power of two from D on."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    live = row < num
    both = live[:, None] & (column < D)[None, :]
    before = tl.load(previous + row, mask=live, other=-1).to(tl.int64)
    a = tl.load(metric + row[:, None] * D + column[None, :], mask=both, other=0.0).to(tl.float32)
    at = tl.where(before < num, tl.maximum(before, 0), 0)  # never outside, whatever was not checked
    b = tl.load(metric + at[:, None] * D + column[None, :], mask=both, other=0.0).to(tl.float32)
    length_a = tl.sqrt(tl.sum(a * a, axis=1))
    length_b = tl.sqrt(tl.sum(b * b, axis=1))
    cosine = tl.sum(a * b, axis=1) / tl.where(length_a == 0, 1.0, length_a)
    cosine = cosine / tl.where(length_b == 0, 1.0, length_b)
    cosine = tl.where((length_a == 0) & (length_b == 0), 1.0, cosine)
    new = tl.minimum(tl.maximum(1.0 - cosine, 0.0), 2.0)
    tl.store(out + row, tl.where(before < 0, 1.0, new), mask=live)


@operator(
    "longcompress_novelty::novelty(Tensor metric, Tensor previous) -> Tensor",
    lambda metric, previous: metric.new_empty((metric.shape[0],), dtype=torch.float32),
)
def novelty_triton(metric: Tensor, previous: Tensor) -> Tensor:
    """(N,) float32, what `novelty` means, of metric (N, d) float and previous (N,) integers."""
    metric, previous = aligned(metric), aligned(previous)
    num, width = metric.shape
    out = metric.new_empty((num,), dtype=torch.float32)
    if num:
        wide = triton.next_power_of_2(max(1, width))
        novelty_kernel[(triton.cdiv(num, ROWS),)](
            metric, previous, out, num, D=width, WIDE=wide, ROWS=ROWS, num_warps=4
        )
    return out
