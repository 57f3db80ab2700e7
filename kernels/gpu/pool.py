"""`pool`, its adjoint and `extremes` as Triton kernels: tokens are read in the order of their groups.

No atomics, so two runs agree to the bit, and a group is summed the same way whatever else is pooled: narrow
rows (a metric) token by token, many groups a program, which is the arithmetic of `plan`'s own rounds; wide
rows a group a program, ROWS tokens at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import NARROW, aligned, operator
from .order import order_of

ROWS = 8  # rows of a group that are loaded at once
CHANNELS = 256  # channels of a program
NARROW_GROUPS = 32  # groups of a program then
WARPS = 4
PLAIN = {"enable_fp_fusion": False}  # see plan


@triton.jit
def share_of(part, total):
    """What a token of weight `part` is multiplied by in the mean of a group of weight `total`: exactly 1 if
    it is all of it, 0 without weight."""
    if part.dtype == tl.float64:
        inverse = tl.where(total > 0, 1.0 / tl.where(total > 0, total, 1.0), 0.0)
    else:
        inverse = tl.where(total > 0, tl.div_rn(1.0, tl.where(total > 0, total, 1.0)), 0.0)
    return tl.where((part == total) & (part > 0), 1.0, inverse * part)


@triton.jit
def means_kernel(
    x, order, first, weight, mass, out, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """out[g] = weighted mean of the rows order[first[g]:first[g + 1]], ROWS at a time."""
    group = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    start = tl.load(first + group)
    stop = tl.load(first + group + 1)
    total = tl.load(mass + group)
    lane = tl.arange(0, ROWS)
    sums = tl.zeros([ROWS, CHANNELS], tl.float32)  # summed over rows once, at the end
    for at in range(start, stop, ROWS):
        live = at + lane < stop
        row = tl.load(order + at + lane, mask=live, other=0).to(tl.int64)
        share = share_of(tl.load(weight + row, mask=live, other=0.0), total)
        # rows of share 0 may hold anything, even infinities
        value = tl.load(
            x + row[:, None] * C + channel[None, :], mask=(share != 0)[:, None] & inside[None, :], other=0.0
        )
        sums += value.to(tl.float32) * share[:, None]
    tl.store(out + group * C + channel, tl.sum(sums, axis=0), mask=inside)


@triton.jit(do_not_specialize=["num"])
def narrow_kernel(
    x, order, first, weight, mass, out, num, C: tl.constexpr, WIDE: tl.constexpr, GROUPS: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """`means_kernel` for many groups a program, a row of each at a time as in `plan`, in numbers of KIND."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    live = group < num
    column = tl.arange(0, WIDE)
    start = tl.load(first + group, mask=live, other=0)
    count = tl.load(first + group + 1, mask=live, other=0) - start
    total = tl.load(mass + group, mask=live, other=0.0).to(KIND)
    acc = tl.zeros([GROUPS, WIDE], KIND)
    for j in range(0, tl.max(count, axis=0)):
        inside = live & (j < count)
        row = tl.load(order + start + j, mask=inside, other=0).to(tl.int64)
        share = share_of(tl.load(weight + row, mask=inside, other=0.0).to(KIND), total)
        rows = tl.load(
            x + row[:, None] * C + column[None, :], mask=(share != 0)[:, None] & (column < C)[None, :],
            other=0.0,
        ).to(KIND)  # fmt: skip
        acc += share[:, None] * rows
    tl.store(out + group[:, None] * C + column[None, :], acc, mask=live[:, None] & (column < C)[None, :])


@triton.jit(do_not_specialize=["num"])
def spread_kernel(
    y, group, weight, mass, out, num, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """out[i] = share of token i * y[group[i]]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = row < num
    both = live[:, None] & (channel < C)[None, :]
    of = tl.load(group + row, mask=live, other=0).to(tl.int64)
    total = tl.load(mass + of, mask=live, other=0.0).to(KIND)
    share = share_of(tl.load(weight + row, mask=live, other=0.0).to(KIND), total)
    value = tl.load(y + of[:, None] * C + channel[None, :], mask=both, other=0.0)
    tl.store(out + row[:, None] * C + channel[None, :], value.to(KIND) * share[:, None], mask=both)


@triton.jit(do_not_specialize=["num"])
def extremes_kernel(low, high, order, first, lowest, highest, num, GROUPS: tl.constexpr):
    """The minimum of low and the maximum of high over the tokens of each group."""
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    live = group < num
    start = tl.load(first + group, mask=live, other=0)
    count = tl.load(first + group + 1, mask=live, other=0) - start
    a = tl.full([GROUPS], float("inf"), low.dtype.element_ty)
    b = tl.full([GROUPS], float("-inf"), high.dtype.element_ty)
    for j in range(0, tl.max(count, axis=0)):
        inside = live & (j < count)
        row = tl.load(order + start + j, mask=inside, other=0)
        a = tl.minimum(a, tl.load(low + row, mask=inside, other=float("inf")))
        b = tl.maximum(b, tl.load(high + row, mask=inside, other=float("-inf")))
    tl.store(lowest + group, a, mask=live)
    tl.store(highest + group, b, mask=live)


@operator(
    "longcompress_pool::means(Tensor x, Tensor group, Tensor weight, Tensor mass) -> Tensor",
    lambda x, group, weight, mass: x.new_empty((mass.shape[0], x.shape[1])),
)
def means(x: Tensor, group: Tensor, weight: Tensor, mass: Tensor) -> Tensor:
    """(M, C) in x.dtype: means of x (N, C) by weight (N,) over the tokens of each group (N,), in float32 or
    better; mass (M,) is the groups' summed weight."""
    num, width = mass.shape[0], x.shape[1]
    out = x.new_empty((num, width), dtype=_kernel_dtype(x))
    if out.numel():
        order, first = order_of(group, num)
        parts = (aligned(x), order, first, aligned(weight), aligned(mass), out)
        if width <= NARROW:
            narrow_kernel[(triton.cdiv(num, NARROW_GROUPS),)](
                *parts, num, C=width, WIDE=triton.next_power_of_2(width), GROUPS=NARROW_GROUPS,
                KIND=_kind(x), num_warps=WARPS, **PLAIN,
            )  # fmt: skip
        else:
            grid = (num, triton.cdiv(width, CHANNELS))
            means_kernel[grid](*parts, C=width, ROWS=ROWS, CHANNELS=CHANNELS, num_warps=WARPS)
    return out.to(x.dtype)


@operator(
    "longcompress_pool::spread(Tensor y, Tensor group, Tensor weight, Tensor mass) -> Tensor",
    lambda y, group, weight, mass: y.new_empty((group.shape[0], y.shape[1])),
)
def spread(y: Tensor, group: Tensor, weight: Tensor, mass: Tensor) -> Tensor:
    """(N, C) in the dtype of y (M, C): each token's share of its group's row; the adjoint of `means`."""
    num, width = group.shape[0], y.shape[1]
    out = y.new_empty((num, width), dtype=_kernel_dtype(y))
    if out.numel():
        grid = (triton.cdiv(num, ROWS), triton.cdiv(width, CHANNELS))
        parts = (aligned(t) for t in (y, group, weight, mass))
        spread_kernel[grid](
            *parts, out, num, C=width, ROWS=ROWS, CHANNELS=CHANNELS, KIND=_kind(y), num_warps=WARPS
        )
    return out.to(y.dtype)


@operator(
    "longcompress_pool::extremes(Tensor low, Tensor high, Tensor group, SymInt num) -> (Tensor, Tensor)",
    lambda low, high, group, num: (low.new_empty((num,)), high.new_empty((num,))),
)
def extremes_triton(low: Tensor, high: Tensor, group: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """((num,), (num,)), what `extremes` means, of low and high (N,) by groups (N,)."""
    lowest, highest = low.new_empty((num,)), high.new_empty((num,))
    if num:
        order, first = order_of(group, num)
        extremes_kernel[(triton.cdiv(num, NARROW_GROUPS),)](
            aligned(low), aligned(high), order, first, lowest, highest, num, GROUPS=NARROW_GROUPS, num_warps=1
        )
    return lowest, highest


def _kind(x: Tensor) -> tl.dtype:
    """What is summed in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _kernel_dtype(x: Tensor) -> torch.dtype:
    """What the kernel writes: no half on the CPU, for the interpreter cuts bfloat16 off, it doesn't round."""
    return x.dtype if x.is_cuda else torch.promote_types(x.dtype, torch.float32)
