"""`pool` and its adjoint as Triton kernels: no atomics, so two runs agree to the bit; x is read once.

Three ways to sum: narrow rows (a metric) token by token, many groups a program, which is the arithmetic of
`plan`'s own rounds; wide rows to few groups a segment as a product with the segment's map, without sorting;
wide rows to many groups a group a program, ROWS tokens at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import NARROW, operator

ROWS = 8  # rows of a group that are loaded at once
CHANNELS = 256  # channels of a program
NARROW_GROUPS = 32  # groups of a program then
FEW = 64  # groups a segment, on average, up to which the product is used
HOT_GROUPS, HOT_WARPS = 32, 8  # of the product's tile
HOT_SPLIT, HOT_WHOLE = (64, 128), (32, 64)  # its tokens and channels, for bfloat16 and for what spills sooner


@triton.jit
def means_kernel(x, order, first, share, out, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """out[g] = sum of share * x over the rows order[first[g]:first[g + 1]], in that order, ROWS at a time."""
    group = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    start = tl.load(first + group)
    stop = tl.load(first + group + 1)
    lane = tl.arange(0, ROWS)
    total = tl.zeros([CHANNELS], tl.float32)
    for at in range(start, stop, ROWS):
        live = at + lane < stop
        row = tl.load(order + at + lane, mask=live, other=0).to(tl.int64)
        part = tl.load(share + row, mask=live, other=0.0)
        value = tl.load(
            x + row[:, None] * C + channel[None, :], mask=live[:, None] & inside[None, :], other=0.0
        )
        # rows of share 0 may hold anything, even infinities
        weighted = tl.where(part[:, None] != 0, value.to(tl.float32) * part[:, None], 0.0)
        total += tl.sum(weighted, axis=0)
    tl.store(out + group * C + channel, total, mask=inside)


@triton.jit
def narrow_kernel(
    x, order, first, share, out, num, C: tl.constexpr, WIDE: tl.constexpr, GROUPS: tl.constexpr
):
    """`means_kernel` for many groups a program, a row of each at a time as in `plan`, in share's dtype."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    live = group < num
    column = tl.arange(0, WIDE)
    start = tl.load(first + group, mask=live, other=0)
    count = tl.load(first + group + 1, mask=live, other=0) - start
    acc = tl.zeros([GROUPS, WIDE], share.dtype.element_ty)
    for j in range(0, tl.max(count, axis=0)):
        inside = live & (j < count)
        row = tl.load(order + start + j, mask=inside, other=0).to(tl.int64)
        part = tl.load(share + row, mask=inside, other=0.0)
        rows = tl.load(
            x + row[:, None] * C + column[None, :],
            mask=(part != 0)[:, None] & (column < C)[None, :],
            other=0.0,
        ).to(share.dtype.element_ty)
        acc += part[:, None] * rows
    tl.store(out + group[:, None] * C + column[None, :], acc, mask=live[:, None] & (column < C)[None, :])


@triton.jit
def product_kernel(
    x, group, share, tokens, groups, out, C: tl.constexpr, SPLIT: tl.constexpr, TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """out[g] = sum of share * x over a segment's tokens of group g, as x^T @ map; GROUPS groups at a time.

    SPLIT: x is bfloat16, and the shares go in three parts of 8 bits; else all is float32.
    """
    segment = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    start = tl.load(tokens + segment)
    end = tl.load(tokens + segment + 1)
    last = tl.load(groups + segment + 1)
    lane = tl.arange(0, TOKENS)
    for first in range(tl.load(groups + segment), last, GROUPS):
        number = first + tl.arange(0, GROUPS)
        total = tl.zeros([CHANNELS, GROUPS], tl.float32)
        for at in range(start, end, TOKENS):
            token = (at + lane).to(tl.int64)
            live = token < end
            of = tl.load(group + token, mask=live, other=-1)
            part = tl.load(share + token, mask=live, other=0.0)
            # tokens of share 0 may hold anything, even infinities
            rows = tl.load(
                x + token[:, None] * C + channel[None, :],
                mask=(part != 0)[:, None] & inside[None, :],
                other=0.0,
            )
            hot = tl.where(of[:, None] == number[None, :], part[:, None], 0.0)
            if SPLIT:
                turned = tl.trans(rows)
                high = hot.to(tl.bfloat16)
                rest = hot - high.to(tl.float32)
                middle = rest.to(tl.bfloat16)
                low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
                total += tl.dot(turned, low)
                total += tl.dot(turned, middle)
                total += tl.dot(turned, high)
            else:
                total += tl.dot(tl.trans(rows.to(tl.float32)), hot, input_precision="tf32x3")
        tl.store(
            out + number.to(tl.int64)[None, :] * C + channel[:, None], total,
            mask=(number < last)[None, :] & inside[:, None],
        )  # fmt: skip


@triton.jit
def spread_kernel(y, group, share, out, num, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """out[i] = share[i] * y[group[i]]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = row < num
    both = live[:, None] & (channel < C)[None, :]
    of = tl.load(group + row, mask=live, other=0).to(tl.int64)
    part = tl.load(share + row, mask=live, other=0.0)
    value = tl.load(y + of[:, None] * C + channel[None, :], mask=both, other=0.0)
    tl.store(out + row[:, None] * C + channel[None, :], value.to(part.dtype) * part[:, None], mask=both)


@operator(
    "longcompress_pool::means(Tensor x, Tensor group, Tensor share, SymInt num, Tensor? starts=None) -> "
    "Tensor",
    lambda x, group, share, num, starts=None: x.new_empty((num, x.shape[1])),
)
def means(x: Tensor, group: Tensor, share: Tensor, num: int, starts: Tensor | None = None) -> Tensor:
    """(num, C) in x.dtype: sum of share (N,) * x (N, C) over the tokens of each group (N,), in float32.

    `starts` (S + 1,) int32 is where the groups of each segment begin, if the tokens of each segment lie
    together in the segments' order, as `plan` makes them; None: nothing is known.
    """
    x, share = x.contiguous(), share.contiguous()
    width = x.shape[1]
    out = x.new_empty((num, width), dtype=_kernel_dtype(x))
    if not out.numel():
        return out.to(x.dtype)
    if width > NARROW and starts is not None and num <= FEW * (starts.shape[0] - 1):
        group = group.contiguous()
        segment = torch.searchsorted(starts[1:], group, right=True, out_int32=True)
        ends = torch.arange(starts.shape[0], device=x.device, dtype=torch.int32)
        tokens = torch.searchsorted(segment, ends, out_int32=True)
        split = x.is_cuda and x.dtype == torch.bfloat16
        lanes, channels = HOT_SPLIT if split else HOT_WHOLE
        product_kernel[(starts.shape[0] - 1, triton.cdiv(width, channels))](
            x, group, share, tokens, starts.contiguous(), out, C=width, SPLIT=split, TOKENS=lanes,
            CHANNELS=channels, GROUPS=HOT_GROUPS, num_warps=HOT_WARPS,
        )  # fmt: skip
        return out.to(x.dtype)
    sorted_, order = group.sort(stable=True)
    first = torch.searchsorted(sorted_, torch.arange(num + 1, device=x.device, dtype=sorted_.dtype))
    if width <= NARROW:
        narrow_kernel[(triton.cdiv(num, NARROW_GROUPS),)](
            x, order, first, share, out, num, C=width, WIDE=triton.next_power_of_2(width),
            GROUPS=NARROW_GROUPS, num_warps=4,
        )  # fmt: skip
    else:
        means_kernel[(num, triton.cdiv(width, CHANNELS))](
            x, order, first, share, out, C=width, ROWS=ROWS, CHANNELS=CHANNELS, num_warps=4
        )
    return out.to(x.dtype)


@operator(
    "longcompress_pool::spread(Tensor y, Tensor group, Tensor share) -> Tensor",
    lambda y, group, share: y.new_empty((group.shape[0], y.shape[1])),
)
def spread(y: Tensor, group: Tensor, share: Tensor) -> Tensor:
    """(N, C) in the dtype of y (M, C): share (N,) * y[group (N,)]; the adjoint of `means`."""
    y, group, share = y.contiguous(), group.contiguous(), share.contiguous()
    out = y.new_empty((group.shape[0], y.shape[1]), dtype=_kernel_dtype(y))
    if out.numel():
        grid = (triton.cdiv(group.shape[0], ROWS), triton.cdiv(y.shape[1], CHANNELS))
        spread_kernel[grid](
            y, group, share, out, group.shape[0], C=y.shape[1], ROWS=ROWS, CHANNELS=CHANNELS, num_warps=4
        )
    return out.to(y.dtype)


def _kernel_dtype(x: Tensor) -> torch.dtype:
    """What the kernel writes: no half on the CPU, for the interpreter cuts bfloat16 off, it doesn't round."""
    return x.dtype if x.is_cuda else torch.promote_types(x.dtype, torch.float32)
