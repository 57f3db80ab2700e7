"""The best partner of every even seat as a Triton kernel, without the matrix of scores."""

import torch
import triton
import triton.language as tl
from torch import Tensor

EVENS, ODDS = 64, 32  # rows and columns of a tile of scores; 64 x 64 spills on an A100
WARPS = 4
LIBRARY = torch.library.Library("longcompress_plan", "DEF")


@triton.jit
def match_kernel(
    x, square, inverse, best, partner, n, D: tl.constexpr, WIDE: tl.constexpr, WARD: tl.constexpr,
    EVENS: tl.constexpr, ODDS: tl.constexpr,
):  # fmt: skip
    """best[s, i] = the greatest score of seat 2 i with any odd seat of its segment, partner[s, i] the lowest
    odd seat that gives it; the odd seats go by in tiles."""
    segment = tl.program_id(1).to(tl.int64)
    even = tl.program_id(0) * EVENS + tl.arange(0, EVENS)
    column = tl.arange(0, WIDE)
    inside = column < D
    num_even = (n + 1) // 2
    num_odd = n // 2
    live = even < num_even
    row = segment * n + 2 * even
    a = tl.load(x + row[:, None] * D + column[None, :], mask=live[:, None] & inside[None, :], other=0.0)
    square_a = tl.load(square + row, mask=live, other=0.0)
    inverse_a = tl.load(inverse + row, mask=live, other=1.0)
    top = tl.full([EVENS], float("-inf"), tl.float32)
    at = tl.zeros([EVENS], tl.int32)
    for first in range(0, num_odd, ODDS):
        odd = first + tl.arange(0, ODDS)
        there = odd < num_odd
        other = segment * n + 2 * odd + 1
        b = tl.load(
            x + other[None, :] * D + column[:, None], mask=there[None, :] & inside[:, None], other=0.0
        )
        square_b = tl.load(square + other, mask=there, other=0.0)
        inverse_b = tl.load(inverse + other, mask=there, other=1.0)
        score = tl.dot(a, b, input_precision="tf32x3")
        if WARD:
            score = (2 * score - square_a[:, None] - square_b[None, :]) / (
                inverse_a[:, None] + inverse_b[None, :]
            )
        else:
            score = tl.where((square_a == 0)[:, None] | (square_b == 0)[None, :], -1.0, score)
        score = tl.where(there[None, :], score, float("-inf"))
        value, index = tl.max(score, axis=1, return_indices=True)
        better = value > top  # not >=: ties go to the lowest seat
        at = tl.where(better, first + index, at)
        top = tl.where(better, value, top)
    tl.store(best + segment * num_even + even, top, mask=live)
    tl.store(partner + segment * num_even + even, at, mask=live)


def best_triton(x: Tensor, w: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """(S, ceil(n / 2)) best score of each even seat, and int64 the odd seat's number that gives it.

    Args:
        x: (S, n, d) float32, n >= 2.
        w: (S, n) float32 weights, >= 0; for "ward".
        score: "ward" or "cosine".
    """
    found: tuple[Tensor, Tensor] = torch.ops.longcompress_plan.match(x, w, score == "ward")
    return found


def _match(x: Tensor, w: Tensor, ward: bool) -> tuple[Tensor, Tensor]:
    segments, n, width = x.shape
    square = (x * x).sum(-1)
    if not ward:
        length = square.sqrt()
        x = x / torch.where(length == 0, torch.ones_like(length), length)[..., None]
    best = x.new_empty((segments, (n + 1) // 2))
    partner = x.new_empty((segments, (n + 1) // 2), dtype=torch.int64)
    if best.numel():
        wide = max(16, triton.next_power_of_2(width))
        match_kernel[(triton.cdiv((n + 1) // 2, EVENS), segments)](
            x.contiguous(), square, (1 / w).contiguous(), best, partner, n, D=width, WIDE=wide, WARD=ward,
            EVENS=EVENS, ODDS=ODDS, num_warps=WARPS,
        )  # fmt: skip
    return best, partner


LIBRARY.define("match(Tensor x, Tensor w, bool ward) -> (Tensor, Tensor)")
for _device in ("CPU", "CUDA"):  # on the CPU: under Triton's interpreter
    LIBRARY.impl("match", _match, _device)


@torch.library.register_fake("longcompress_plan::match", lib=LIBRARY)
def _match_fake(x: Tensor, w: Tensor, ward: bool) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], (x.shape[1] + 1) // 2)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)
