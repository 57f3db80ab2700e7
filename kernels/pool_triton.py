"""`pool` and its adjoint as Triton kernels: no atomics, so two runs agree to the bit; x is read once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 8  # rows of a group that are loaded at once
CHANNELS = 256  # channels of a program
LIBRARY = torch.library.Library("longcompress_pool", "DEF")


@triton.jit
def means_kernel(
    x, order, first, share, out, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
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
def spread_kernel(
    y, group, share, out, num, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """out[i] = share[i] * y[group[i]]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = row < num
    both = live[:, None] & (channel < C)[None, :]
    of = tl.load(group + row, mask=live, other=0).to(tl.int64)
    part = tl.load(share + row, mask=live, other=0.0)
    value = tl.load(y + of[:, None] * C + channel[None, :], mask=both, other=0.0)
    tl.store(out + row[:, None] * C + channel[None, :], value.to(tl.float32) * part[:, None], mask=both)


def means(x: Tensor, group: Tensor, share: Tensor, num: int) -> Tensor:
    """(num, C) in x.dtype: sum of share * x over the tokens of each group, summed in float32.

    Args:
        x: (N, C) float32, bfloat16 or float16.
        group: (N,) int32 or int64.
        share: (N,) float32.
        num: groups.
    """
    out: Tensor = torch.ops.longcompress_pool.means(x, group, share, num)
    return out


def spread(y: Tensor, group: Tensor, share: Tensor) -> Tensor:
    """(N, C) in y.dtype: share * y[group]; the adjoint of `means`.

    Args:
        y: (M, C) float32, bfloat16 or float16.
        group: (N,) int32 or int64.
        share: (N,) float32.
    """
    out: Tensor = torch.ops.longcompress_pool.spread(y, group, share)
    return out


def _means(x: Tensor, group: Tensor, share: Tensor, num: int) -> Tensor:
    x, share = x.contiguous(), share.contiguous()
    sorted_, order = group.sort(stable=True)
    first = torch.searchsorted(sorted_, torch.arange(num + 1, device=x.device, dtype=sorted_.dtype))
    out = x.new_empty((num, x.shape[1]), dtype=_kernel_dtype(x))
    if out.numel():
        grid = (num, triton.cdiv(x.shape[1], CHANNELS))
        means_kernel[grid](
            x, order, first, share, out, C=x.shape[1], ROWS=ROWS, CHANNELS=CHANNELS, num_warps=4
        )
    return out.to(x.dtype)


def _spread(y: Tensor, group: Tensor, share: Tensor) -> Tensor:
    y, group, share = y.contiguous(), group.contiguous(), share.contiguous()
    out = y.new_empty((group.shape[0], y.shape[1]), dtype=_kernel_dtype(y))
    if out.numel():
        grid = (triton.cdiv(group.shape[0], ROWS), triton.cdiv(y.shape[1], CHANNELS))
        spread_kernel[grid](
            y, group, share, out, group.shape[0], C=y.shape[1], ROWS=ROWS, CHANNELS=CHANNELS, num_warps=4
        )
    return out.to(y.dtype)


def _kernel_dtype(x: Tensor) -> torch.dtype:
    """What the kernel writes: on the CPU float32, for the interpreter cuts bfloat16 off, it doesn't round."""
    return x.dtype if x.is_cuda else torch.float32


LIBRARY.define("means(Tensor x, Tensor group, Tensor share, SymInt num) -> Tensor")
LIBRARY.define("spread(Tensor y, Tensor group, Tensor share) -> Tensor")
for _device in ("CPU", "CUDA"):  # on the CPU: under Triton's interpreter
    LIBRARY.impl("means", _means, _device)
    LIBRARY.impl("spread", _spread, _device)


@torch.library.register_fake("longcompress_pool::means", lib=LIBRARY)
def _means_fake(x: Tensor, group: Tensor, share: Tensor, num: int) -> Tensor:
    return x.new_empty((num, x.shape[1]))


@torch.library.register_fake("longcompress_pool::spread", lib=LIBRARY)
def _spread_fake(y: Tensor, group: Tensor, share: Tensor) -> Tensor:
    return y.new_empty((group.shape[0], y.shape[1]))
