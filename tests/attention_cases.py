"""Rows with branches, what their tokens see by the definition, and stand-ins of kernels that need a GPU."""

import sys
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Rows(NamedTuple):
    """Of (B, L) each: branch, sample, 1 where no padding is."""

    branch: Tensor
    sample: Tensor
    mask: Tensor


def rows_of(*rows: list[list[int]]) -> Rows:
    """Rows of samples, each with the lengths of its video and its branches, padded on the right."""
    length = max(sum(map(sum, row)) for row in rows)
    branch, sample = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(2))
    sample -= 1
    for i, row in enumerate(rows):
        at = 0
        for number, lengths in enumerate(row):
            for of, size in enumerate(lengths):
                branch[i, at : at + size], sample[i, at : at + size] = of, number
                at += size
    return Rows(branch, sample, (sample >= 0).long())


CASES = {
    "video": rows_of([[70]]),
    "question": rows_of([[40, 9]]),
    "branches": rows_of([[150, 11, 30, 1]]),
    "packed": rows_of([[33, 5], [60, 7, 9], [21], [80, 30, 2, 40]]),
    "rows": rows_of([[130, 8, 8], [3, 2, 2]], [[20, 3, 5, 1]], [[90, 4], [0, 6, 7]]),
}


_SEEN: dict[tuple[int, int | None], Tensor] = {}


def seen_of(rows: Rows, window: int | None = None) -> Tensor:
    """(B, L, L) what each token sees, pair by pair; the places of a window count in the token's own sequence,
    of its video and its branch."""
    if (id(rows), window) in _SEEN:
        return _SEEN[id(rows), window]
    num, length = rows.branch.shape
    seen = torch.zeros(num, length, length, dtype=torch.bool)
    for b in range(num):
        branch, sample = rows.branch[b].tolist(), rows.sample[b].tolist()
        for q in range(length):
            own = [
                k for k in range(q + 1)
                if sample[k] == sample[q] >= 0 and branch[k] in (0, branch[q])
            ]  # fmt: skip
            seen[b, q, own if window is None else own[-window:]] = True
            seen[b, q, q] = True
    return _SEEN.setdefault((id(rows), window), seen)


def dense(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, softcap: float | None = None
) -> Tensor:
    """(B, H, L, d) attention of what is seen (B, L, L), written down whole."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = scale * torch.einsum("bhqd,bhkd->bhqk", q, k)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1) @ v


def run(function, inputs, real: Tensor) -> dict[str, Tensor]:
    """What `function` gives at real tokens (B, L), and the gradients of a loss that only they are in."""
    q, k, v = (x.clone().requires_grad_() for x in inputs)
    out = function(q, k, v)
    picked = out.transpose(1, 2)[real]
    (picked.float().sin() * torch.linspace(0.5, 2, picked.shape[-1])).sum().backward()
    return {"out": picked, "dq": q.grad, "dk": k.grad, "dv": v.grad}


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
    causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False, block_table=None,
):  # fmt: skip
    """What flash-attn 2 says of this function. Like there, the logs have no gradient."""
    assert q.ndim == k.ndim == v.ndim == 3 and k.shape == v.shape and q.shape[1] % k.shape[1] == 0
    sides = []
    for edges, x, longest in ((cu_seqlens_q, q, max_seqlen_q), (cu_seqlens_k, k, max_seqlen_k)):
        assert edges.dtype == torch.int32 and edges[0] == 0 and edges[-1] == len(x)
        assert isinstance(longest, int) and longest == int(edges.diff().max()) and int(edges.diff().min()) > 0
        sides.append(list(pairwise(edges.tolist())))
    assert len(sides[0]) == len(sides[1])
    assert (dropout_p, softcap, window_size, alibi_slopes, block_table) == (0.0, 0.0, (-1, -1), None, None)
    outs, levels = [], []
    for (a, b), (c, d) in zip(*sides, strict=True):
        key, value = (x[c:d].repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        scores = softmax_scale * torch.einsum("qhd,khd->hqk", q[a:b].float(), key.float())
        if causal:  # aligned to the bottom right corner
            scores = scores + torch.full_like(scores, -torch.inf).triu(d - c - (b - a) + 1)
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value.float()).to(q.dtype))
        levels.append(scores.logsumexp(-1))
    out, level = torch.cat(outs), torch.cat(levels, 1).detach()
    return (out, level, None) if return_attn_probs else out


def stand_in_flash(monkeypatch) -> None:
    module = ModuleType("flash_attn")
    module.__spec__ = ModuleSpec("flash_attn", None)
    module.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)


def stand_in_xformers(monkeypatch, padded: bool) -> None:
    """xformers' functions by their mask written out, with the logs packed, or padded a row a sequence."""
    from xformers.ops import fmha

    def attention(query, key, value, mask, *, scale):
        assert len(query) == len(key) == 1 and query.shape[2:] == key.shape[2:]
        q, k, v = (x[0].transpose(0, 1).float() for x in (query, key, value))
        scores = scale * q @ k.mT + mask.materialize((q.shape[1], k.shape[1]))
        return (scores.softmax(-1) @ v).transpose(0, 1)[None].to(query.dtype), scores.logsumexp(-1)

    def partial(query, key, value, mask, *, scale):
        assert not torch.is_grad_enabled(), "it has no backward pass"
        out, level = attention(query, key, value, mask, scale=scale)
        if padded:
            ends = list(pairwise(mask.q_seqinfo.seqstart_py))
            longest = mask.q_seqinfo.max_seqlen + 5
            rows = [
                nn.functional.pad(level[:, a:b], (0, longest - (b - a)), value=torch.inf) for a, b in ends
            ]
            return out, torch.stack(rows)
        return out, level[None]

    monkeypatch.setattr(
        fmha, "memory_efficient_attention", lambda *args, scale: attention(*args, scale=scale)[0]
    )
    monkeypatch.setattr(fmha, "memory_efficient_attention_partial", partial)


def flex_from_mask(q, k, v, *, block_mask, scale, score_mod, enable_gqa):
    """What flex attention computes of a block mask: the blocks in its tables, whole or by mask_mod."""
    assert enable_gqa == (q.shape[1] != k.shape[1])
    batch, heads, length, _ = q.shape
    size, num = block_mask.BLOCK_SIZE[0], -(-length // block_mask.BLOCK_SIZE[0])
    assert block_mask.seq_lengths == (length, length) and block_mask.kv_num_blocks.shape == (batch, 1, num)
    index = torch.arange(length)
    seen = torch.zeros(batch, length, length, dtype=torch.bool)
    for b in range(batch):
        may = block_mask.mask_mod(torch.tensor(b), torch.tensor(0), index[:, None], index)
        for i in range(num):
            at = slice(i * size, (i + 1) * size)
            for counts, places, whole in (
                (block_mask.kv_num_blocks, block_mask.kv_indices, False),
                (block_mask.full_kv_num_blocks, block_mask.full_kv_indices, True),
            ):
                for j in places[b, 0, i, : counts[b, 0, i]].tolist():
                    of = slice(j * size, (j + 1) * size)
                    assert not seen[b, at, of].any(), "a block is written down once"
                    seen[b, at, of] = may[at, of] | whole
    k, v = (x.repeat_interleave(heads // k.shape[1], 1) for x in (k, v))
    scores = scale * q @ k.mT
    scores = scores if score_mod is None else score_mod(scores, None, None, None, None)
    return scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1) @ v


class Largest(TorchDispatchMode):
    """The largest tensor that anything makes."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.num = max([self.num, *sizes])
        return out
