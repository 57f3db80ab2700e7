"""`medoid` as one Triton kernel: each group's rows are read twice, for their mean and for the nearest."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import aligned, operator
from .order import order_of
from .pool import share_of

NUMBERS = 2048  # float64 numbers of the means that a program has
WARPS = 8


@triton.jit(do_not_specialize=["num"])
def medoid_kernel(
    metric, order, first, weight, mass, center, out, num, D: tl.constexpr, WIDE: tl.constexpr,
    GROUPS: tl.constexpr, CENTERED: tl.constexpr,
):  # fmt: skip
    """out[g] = the row of order[first[g]:first[g + 1]] nearest to center[g], or to their mean.

    GROUPS groups a program, a row of each at a time; WIDE is the power of two from D on.
    """
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    live = group < num
    column = tl.arange(0, WIDE)
    within = (column < D)[None, :]
    start = tl.load(first + group, mask=live, other=0)
    count = tl.load(first + group + 1, mask=live, other=0) - start
    longest = tl.max(count, axis=0)
    total = tl.load(mass + group, mask=live, other=0.0).to(tl.float64)
    if CENTERED:
        middle = tl.load(
            center + group[:, None] * D + column[None, :], mask=live[:, None] & within, other=0.0
        )
    else:
        middle = tl.zeros([GROUPS, WIDE], tl.float64)
        for j in range(0, longest):
            inside = live & (j < count)
            row = tl.load(order + start + j, mask=inside, other=0).to(tl.int64)
            part = share_of(tl.load(weight + row, mask=inside, other=0.0).to(tl.float64), total)
            # rows of share 0 may hold anything, even infinities
            mask = (part != 0)[:, None] & within
            rows = tl.load(metric + row[:, None] * D + column[None, :], mask=mask, other=0.0)
            middle += part[:, None] * rows.to(tl.float64)
    best = tl.full([GROUPS], float("inf"), tl.float64)
    nearest = tl.full([GROUPS], -1, tl.int64)
    for j in range(0, longest):
        inside = live & (j < count)
        row = tl.load(order + start + j, mask=inside, other=0).to(tl.int64)
        part = tl.load(weight + row, mask=inside, other=0.0)
        mask = (part != 0)[:, None] & within
        rows = tl.load(metric + row[:, None] * D + column[None, :], mask=mask, other=0.0)
        apart = tl.where(mask, rows.to(tl.float64) - middle, 0.0)
        distance = tl.where(part != 0, tl.sum(apart * apart, axis=1), float("inf"))
        # rows rise, so the first of equals stays, and the first of all where none has weight
        closer = inside & ((distance < best) | (nearest < 0))
        best = tl.where(closer, distance, best)
        nearest = tl.where(closer, row, nearest)
    tl.store(out + group, nearest, mask=live)


@operator(
    "longcompress_medoid::medoid(Tensor metric, Tensor group, Tensor weight, Tensor mass, Tensor? center) "
    "-> Tensor",
    lambda metric, group, weight, mass, center: metric.new_empty((mass.shape[0],), dtype=torch.int64),
)
def medoid_triton(
    metric: Tensor, group: Tensor, weight: Tensor, mass: Tensor, center: Tensor | None
) -> Tensor:
    """(M,) int64, what `medoid` means, of metric (N, d), groups, weights (N,), mass (M,) and center."""
    num, width = mass.shape[0], metric.shape[1]
    out = metric.new_empty((num,), dtype=torch.int64)
    if not num:
        return out
    middle = mass if center is None else aligned(center.double())  # not read without a center
    wide = triton.next_power_of_2(max(1, width))
    groups = max(1, NUMBERS // wide)
    medoid_kernel[(triton.cdiv(num, groups),)](
        aligned(metric), *order_of(group, num), aligned(weight), aligned(mass), middle, out, num, D=width,
        WIDE=wide, GROUPS=groups, CENTERED=center is not None, num_warps=WARPS,
    )  # fmt: skip
    return out
