"""`attend` by xformers' attention under a block-diagonal mask; it has no gradient and needs a GPU."""

from itertools import pairwise

import torch
from torch import Tensor

ALIGNED = 8  # channels; xformers' kernels read so many at a time


def attend_xformers(
    query: Tensor, x: Tensor, at: list[int], bias: Tensor | None, state: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """(max, sum, acc) after the tokens: the same state, with a max that is the log of a sum. `read` and
    further chunks see no difference.

    Arguments are those of `attend_reference`; the bias goes in as two further channels, so that half
    precision doesn't round it. ValueError if xformers can't run these tensors, or one needs a gradient.
    """
    try:
        from xformers.ops.fmha import memory_efficient_attention_partial as partial
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask
    except ImportError as error:
        hint = "pip install 'longcompress[xformers]'"
        raise ImportError(f"backend 'xformers' needs the package xformers: {hint}") from error
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (query, x, bias, *state)):
        raise ValueError("backend 'xformers' has no gradient; use backend='auto' or torch.no_grad()")
    lengths = [b - a for a, b in pairwise(at)]
    filled = [s for s, n in enumerate(lengths) if n]
    if not filled:
        return state
    num, slots = len(filled), len(query)
    keys, queries = x, query.to(x.dtype)
    if bias is not None:
        high = bias.to(x.dtype)
        low = (bias.float() - high.float()).to(x.dtype)
        spare = x.new_zeros(len(x), ALIGNED - 2)
        keys = torch.cat([x, high[:, None], low[:, None], spare], 1)
        queries = torch.cat([queries, queries.new_ones(slots, 2), queries.new_zeros(slots, ALIGNED - 2)], 1)
    mask = BlockDiagonalMask.from_seqlens([slots] * num, [lengths[s] for s in filled])
    try:
        out, summed = partial(
            queries.repeat(num, 1)[None, :, None], keys[None, :, None], x[None, :, None], mask, scale=1.0
        )
    except NotImplementedError as error:
        raise ValueError(f"backend 'xformers' can't read these tensors: {error}") from error
    # one row a query, packed one after another or padded segment by segment
    packed = summed.shape[0] == 1
    level = summed[0, 0, : num * slots].view(num, slots) if packed else summed[:, 0, :slots]
    rows = torch.tensor(filled, device=x.device)
    return _joined(state, rows, level.float(), out.reshape(num, slots, -1).float())


def _joined(
    state: tuple[Tensor, Tensor, Tensor], rows: Tensor, level: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`state` with what segments `rows` (n,) read: log of the sum (n, E) and answer (n, E, C)."""
    old_max, old_sum, old_acc = (part[rows] for part in state)
    before = torch.where(old_sum > 0, old_max + old_sum.log(), torch.full_like(old_max, -torch.inf))
    top = torch.maximum(before, level)
    shift = torch.where(top.isinf(), torch.zeros_like(top), top)
    old_share = torch.where(old_sum > 0, (old_max - shift).exp(), torch.zeros_like(top))
    new = (level - shift).exp()
    after = (top, old_sum * old_share + new, old_acc * old_share[..., None] + mean * new[..., None])
    whole = [part.clone() for part in state]
    for part, value in zip(whole, after, strict=True):
        part[rows] = value
    return whole[0], whole[1], whole[2]
