"""`head_mean` as one Triton kernel: x is read once and never copied to float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import aligned, operator

ROWS = 32  # rows of a program


@triton.jit(do_not_specialize=["num"])
def head_mean_kernel(x, out, num, C: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """out[i] = mean over heads of x[i], in float32; WIDE is the power of two from D on."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    both = (row < num)[:, None] & (column < D)[None, :]
    total = tl.zeros([ROWS, WIDE], tl.float32)
    for head in tl.static_range(0, C // D):
        total += tl.load(x + row[:, None] * C + (head * D + column)[None, :], mask=both, other=0.0).to(
            tl.float32
        )
    tl.store(out + row[:, None] * D + column[None, :], total / (C // D), mask=both)


@operator(
    "longcompress_head_mean::head_mean(Tensor x, int width) -> Tensor",
    lambda x, width: x.new_empty((x.shape[0], width), dtype=torch.float32),
)
def head_mean_triton(x: Tensor, width: int) -> Tensor:
    """(N, width) float32, what `head_mean` means, of x (N, C) float32, bfloat16 or float16."""
    x = aligned(x)
    num, channels = x.shape
    out = x.new_empty((num, width), dtype=torch.float32)
    if num:
        head_mean_kernel[(triton.cdiv(num, ROWS),)](
            x, out, num, C=channels, D=width, WIDE=triton.next_power_of_2(width), ROWS=ROWS, num_warps=4
        )
    return out
