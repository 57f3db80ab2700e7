"""Attention along a `BranchLayout` in plain torch, block by block, with memory linear in the length.

Softmax over blocks with a running maximum: Milakov and Gimelshein (arXiv 1805.02867); the backward pass makes
the weights again from the log of their sums: Dao et al. (FlashAttention, arXiv 2205.14135).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .branches import BranchLayout, Tables, visible

BLOCK_SCORES = {"cpu": 1 << 18, "cuda": 1 << 23}  # that are made at a time, of all rows and heads
MIN_BLOCK, MAX_BLOCK = 64, 1024  # tokens


def chunked_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BranchLayout, scale: float, softcap: float | None,
    window: int | None,
) -> Tensor:  # fmt: skip
    """(B, H, L, d) as `branch_attention`, computed in float32 or better: the reference of the others."""
    out: Tensor = _Chunked.apply(q, k, v, _Blocks(layout, q, scale, softcap, window))
    return out


class _Blocks:
    """Pairs of blocks with visible pairs of tokens, and their scores."""

    def __init__(
        self, layout: BranchLayout, q: Tensor, scale: float, softcap: float | None, window: int | None
    ) -> None:
        self.scale, self.softcap, self.window, self.length = scale, softcap, window, layout.length
        side = math.isqrt(BLOCK_SCORES.get(q.device.type, 1 << 23) // (q.shape[0] * q.shape[1]))
        self.size = min(MAX_BLOCK, max(MIN_BLOCK, side // MIN_BLOCK * MIN_BLOCK))
        self.tables = layout.tables(q.device)
        seen, all_pairs = layout.pairs(self.size)
        self.some, self.whole = (seen > 0).any(0).tolist(), (seen == all_pairs).all(0).tolist()

    def queries(self) -> Iterator[tuple[int, slice]]:
        """Number and tokens of each block."""
        return ((n, slice(at, at + self.size)) for n, at in enumerate(range(0, self.length, self.size)))

    def keys(self, number: int, of: slice) -> Iterator[tuple[slice, Tensor | None]]:
        """Tokens of each block that these queries see, and (B, 1, 1, c, c) what to hide, None: nothing."""
        for other, keys in self.queries():
            if self.some[number][other]:
                hidden = None
                if not self.whole[number][other] or self.window is not None:
                    query = Tables(*(table[:, of, None] for table in self.tables))
                    key = Tables(*(table[:, None, keys] for table in self.tables))
                    hidden = ~visible(query, key, self.window)[:, None, None]
                    if self.window is not None and bool(hidden.all()):  # too far apart
                        continue
                yield keys, hidden

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, K, G c, c) of scaled queries (B, K, G c, d) and keys (B, K, c, d)."""
        scores = q @ k.mT
        return scores if self.softcap is None else scores.div_(self.softcap).tanh_().mul_(self.softcap)


def _fill(scores: Tensor, hidden: Tensor | None, value: float) -> Tensor:
    """Scores (B, K, G c, c) with `value` at what is hidden, in place."""
    if hidden is not None:
        scores.unflatten(2, (-1, hidden.shape[-2])).masked_fill_(hidden, value)
    return scores


class _Chunked(torch.autograd.Function):
    """Heads of queries that share a head of keys, (G), are folded into the rows of its scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: _Blocks) -> Tensor:
        """(B, H, L, d)"""
        wide = torch.promote_types(q.dtype, torch.float32)
        num_groups = q.shape[1] // k.shape[1]
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        lse = q.new_empty(q.shape[:-1], dtype=wide)
        lowest = torch.finfo(wide).min
        with torch.autocast(q.device.type, enabled=False):
            for number, of in blocks.queries():
                query = _folded(q[:, :, of], k.shape[1]).to(wide) * blocks.scale
                top = query.new_full((*query.shape[:-1], 1), lowest)
                total, summed = torch.zeros_like(top), query.new_zeros(*query.shape[:-1], v.shape[-1])
                for at, hidden in blocks.keys(number, of):
                    scores = _fill(blocks.scores(query, k[:, :, at].to(wide)), hidden, lowest)
                    # a row that has seen nothing yet weighs what it will see with 0 against it
                    new = torch.maximum(top, scores.amax(-1, keepdim=True))
                    weight = scores.sub_(new).exp_()
                    before, top = (top - new).exp_(), new
                    total = total * before + weight.sum(-1, keepdim=True)
                    summed = summed.mul_(before).add_(weight @ v[:, :, at].to(wide))
                out[:, :, of] = _unfolded(summed / total, num_groups).to(q.dtype)
                lse[:, :, of] = _unfolded(top + total.log(), num_groups)[..., 0]
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.blocks = blocks
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v."""
        q, k, v, out, lse = ctx.saved_tensors
        blocks, wide, num_heads = ctx.blocks, lse.dtype, k.shape[1]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
        with torch.autocast(q.device.type, enabled=False):
            for number, of in blocks.queries():
                query, above, value = (_folded(x[:, :, of], num_heads).to(wide) for x in (q, grad, out))
                query = query * blocks.scale
                level = _folded(lse[:, :, of, None], num_heads)
                mean = (above * value).sum(-1, keepdim=True)
                dquery = torch.zeros_like(query)
                for at, hidden in blocks.keys(number, of):
                    key, value = k[:, :, at].to(wide), v[:, :, at].to(wide)
                    scores = blocks.scores(query, key)
                    weight = _fill((scores - level).exp_(), hidden, 0.0)
                    dv[:, :, at] += weight.mT @ above
                    change = (above @ value.mT).sub_(mean).mul_(weight)
                    if blocks.softcap is not None:
                        change *= 1 - (scores / blocks.softcap) ** 2
                    dquery += change @ key
                    dk[:, :, at] += change.mT @ query
                dq[:, :, of] = _unfolded(dquery * blocks.scale, q.shape[1] // num_heads).to(q.dtype)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None


def _folded(x: Tensor, num_heads: int) -> Tensor:
    """(B, K, G c, d) of (B, K G, c, d)."""
    return rearrange(x, "b (k g) c d -> b k (g c) d", k=num_heads)


def _unfolded(x: Tensor, num_groups: int) -> Tensor:
    """(B, K G, c, d) of (B, K, G c, d)."""
    return rearrange(x, "b k (g c) d -> b (k g) c d", g=num_groups)
