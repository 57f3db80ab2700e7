"""Attention along a `BranchLayout` by kernels of packed sequences: flash-attn's and xformers'.

Each run is a causal sequence of its own. What its tokens see of their prefix comes from a second call, and
the two are joined by the logs of their sums. The kernels give no gradient to these logs, so it is taken by
way of a third call, whose values are the keys: d log sum exp(s q k) / dq is the mean of s k by attention.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .branches import BranchLayout

Sides = tuple[list[int], list[int]]  # lengths of the sequences of queries, and of keys
Kernel = Callable[[Tensor, Tensor, Tensor, Sides, bool, float, bool], tuple[Tensor, Tensor | None]]
"""(queries (n, H, d), keys and values (m, K, d), sides, causal, scale, whether the logs are wanted) ->
(n, H, d), and the logs of the sums (H, n) or None."""


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BranchLayout, scale: float, kernel: Kernel
) -> Tensor:
    """(B, H, L, d) as `branch_attention`."""
    rows = len(q)
    q, k, v = (rearrange(x, "b h l d -> (b l) h d") for x in (q, k, v))
    runs = layout.edges.diff().tolist()
    out, _ = kernel(q, k, v, (runs, runs), True, scale, False)
    if fans := layout.fans():
        branch = _places([(edges[0], edges[-1]) for _, _, edges in fans], q.device)
        prefix = _places([(first, stop) for first, stop, _ in fans], q.device)
        query, lengths = q[branch], [b - a for _, _, edges in fans for a, b in pairwise(edges)]
        own, own_level = _with_level(kernel, query, k[branch], v[branch], (lengths, lengths), True, scale)
        sides = [edges[-1] - edges[0] for _, _, edges in fans], [stop - first for first, stop, _ in fans]
        seen, level = _with_level(kernel, query, k[prefix], v[prefix], sides, False, scale)
        share = rearrange((level - own_level).sigmoid(), "h n -> n h 1")  # of the prefix in both sums
        joined = own.to(share.dtype).lerp(seen.to(share.dtype), share)
        out = out.index_copy(0, branch, joined.to(out.dtype))
    return rearrange(out, "(b l) h d -> b h l d", b=rows)


def _places(ends: list[tuple[int, int]], device: torch.device) -> Tensor:
    """The places between several ends."""
    return torch.cat([torch.arange(*pair) for pair in ends]).to(device)


def _with_level(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, sides: Sides, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """What the kernel gives, and the logs of the sums (H, n) with their gradients."""
    out, level = kernel(q, k, v, sides, causal, scale, True)
    assert level is not None
    mean_key, _ = kernel(q.detach(), k.detach(), k, sides, causal, scale, False)
    slope = scale * (q.to(level.dtype) * mean_key.to(level.dtype)).sum(-1).T
    return out, level.detach() + slope - slope.detach()


def flash_kernel(
    q: Tensor, k: Tensor, v: Tensor, sides: Sides, causal: bool, scale: float, level: bool
) -> tuple[Tensor, Tensor | None]:
    """`Kernel` by flash-attn 2."""
    from flash_attn import flash_attn_varlen_func

    edges = (torch.tensor([0, *accumulate(side)], dtype=torch.int32, device=q.device) for side in sides)
    options = {"softmax_scale": scale, "causal": causal, "return_attn_probs": True}  # the logs too
    out, levels, _ = flash_attn_varlen_func(q, k, v, *edges, *map(max, sides), **options)
    return out, levels


def xformers_kernel(
    q: Tensor, k: Tensor, v: Tensor, sides: Sides, causal: bool, scale: float, level: bool
) -> tuple[Tensor, Tensor | None]:
    """`Kernel` by xformers, whose backward pass wants a head of keys for each of queries."""
    from xformers.ops import fmha
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask, BlockDiagonalMask

    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1)[None] for x in (k, v))
    kind: Any = BlockDiagonalCausalMask if causal else BlockDiagonalMask
    mask = kind.from_seqlens(*sides, device=q.device)
    out = fmha.memory_efficient_attention(q[None], k, v, mask, scale=scale)[0]
    if not level:
        return out, None
    with torch.no_grad():  # it has no backward pass
        _, levels = fmha.memory_efficient_attention_partial(q[None], k, v, mask, scale=scale)
    if len(levels) == len(sides[0]) > 1:  # padded, a row for each sequence
        levels = torch.cat([row[:, :num] for row, num in zip(levels, sides[0], strict=True)], 1)[None]
    return out, levels[0, :, : len(q)]
