"""`attend` as Triton kernels: scores first, then each segment's running softmax, and its adjoint."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._dispatch import aligned, operator

ROWS = 32  # tokens at once
CHANNELS = 64  # channels at once


@triton.jit(do_not_specialize=["num"])
def scores_kernel(
    query, x, bias, scores, num, E: tl.constexpr, QUERIES: tl.constexpr, C: tl.constexpr,
    BIASED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """scores[n, e] = x[n] . query[e] + bias[n], in float32; QUERIES is the power of two >= 16 from E on."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    each = tl.arange(0, QUERIES)
    lane = tl.arange(0, CHANNELS)
    live = row < num
    total = tl.zeros([ROWS, QUERIES], tl.float32)
    for at in range(0, C, CHANNELS):
        inside = at + lane < C
        rows = tl.load(
            x + row[:, None] * C + (at + lane)[None, :], mask=live[:, None] & inside[None, :], other=0.0
        ).to(tl.float32)
        queries = tl.load(
            query + each[None, :] * C + (at + lane)[:, None],
            mask=(each < E)[None, :] & inside[:, None], other=0.0,
        ).to(tl.float32)  # fmt: skip
        total += tl.dot(rows, queries, input_precision="tf32x3")
    if BIASED:
        total += tl.load(bias + row, mask=live, other=0.0).to(tl.float32)[:, None]
    tl.store(scores + row[:, None] * E + each[None, :], total, mask=live[:, None] & (each < E)[None, :])


@triton.jit
def read_kernel(
    x, scores, offsets, old_max, old_sum, old_acc, new_max, new_sum, new_acc, E: tl.constexpr,
    QUERIES: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A segment's state after its tokens, CHANNELS of acc a program; all programs go through all scores."""
    segment = tl.program_id(0).to(tl.int64)
    each = tl.arange(0, QUERIES)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_query = each < E
    inside = channel < C
    start = tl.load(offsets + segment)
    stop = tl.load(offsets + segment + 1)
    lane = tl.arange(0, ROWS)
    top = tl.load(old_max + segment * E + each, mask=is_query, other=float("-inf"))
    total = tl.load(old_sum + segment * E + each, mask=is_query, other=0.0)
    where = segment * E * C + each[:, None] * C + channel[None, :]
    both = is_query[:, None] & inside[None, :]
    acc = tl.load(old_acc + where, mask=both, other=0.0)
    for at in range(start, stop, ROWS):
        row = (at + lane).to(tl.int64)
        live = row < stop
        score = tl.load(
            scores + row[None, :] * E + each[:, None], mask=is_query[:, None] & live[None, :],
            other=float("-inf"),
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(score, axis=1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        keep = tl.where(total > 0, tl.exp(top - shift), 0.0)
        share = tl.exp(score - shift[:, None])
        rows = tl.load(
            x + row[:, None] * C + channel[None, :], mask=live[:, None] & inside[None, :], other=0.0
        ).to(tl.float32)
        total = total * keep + tl.sum(share, axis=1)
        acc = acc * keep[:, None] + tl.dot(share, rows, input_precision="tf32x3")
        top = higher
    tl.store(new_acc + where, acc, mask=both)
    if tl.program_id(1) == 0:
        tl.store(new_max + segment * E + each, top, mask=is_query)
        tl.store(new_sum + segment * E + each, total, mask=is_query)


@triton.jit
def score_grad_kernel(
    x, scores, offsets, dtotal, dacc, dm, top, first, dscore, E: tl.constexpr, QUERIES: tl.constexpr,
    C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dscore = share (dtotal + dacc . x), and dm more where a token is the first with the greatest score."""
    segment = tl.program_id(0).to(tl.int64)
    each = tl.arange(0, QUERIES)
    is_query = each < E
    lane = tl.arange(0, ROWS)
    channels = tl.arange(0, CHANNELS)
    start = tl.load(offsets + segment)
    stop = tl.load(offsets + segment + 1)
    highest = tl.load(top + segment * E + each, mask=is_query, other=0.0)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    more = tl.load(dm + segment * E + each, mask=is_query, other=0.0)
    winner = tl.load(first + segment * E + each, mask=is_query, other=-1)
    grad_total = tl.load(dtotal + segment * E + each, mask=is_query, other=0.0)
    for at in range(start, stop, ROWS):
        row = (at + lane).to(tl.int64)
        live = row < stop
        both = live[:, None] & is_query[None, :]
        grad_share = tl.zeros([ROWS, QUERIES], tl.float32) + grad_total[None, :]
        for c in range(0, C, CHANNELS):
            inside = c + channels < C
            rows = tl.load(
                x + row[:, None] * C + (c + channels)[None, :],
                mask=live[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            grad = tl.load(
                dacc + segment * E * C + each[None, :] * C + (c + channels)[:, None],
                mask=is_query[None, :] & inside[:, None], other=0.0,
            )  # fmt: skip
            grad_share += tl.dot(rows, grad, input_precision="tf32x3")
        where = row[:, None] * E + each[None, :]
        score = tl.load(scores + where, mask=both, other=float("-inf"))
        share = tl.exp(score - shift[None, :])
        best = row[:, None] == winner[None, :]
        tl.store(dscore + where, share * grad_share + tl.where(best, more[None, :], 0.0), mask=both)


@triton.jit
def token_grad_kernel(
    query, x, scores, offsets, dacc, top, dscore, dx, dquery, E: tl.constexpr, QUERIES: tl.constexpr,
    C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx = share dacc + dscore query, and each segment's part of dquery = dscore^T x; CHANNELS a program."""
    segment = tl.program_id(0).to(tl.int64)
    each = tl.arange(0, QUERIES)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_query = each < E
    inside = channel < C
    lane = tl.arange(0, ROWS)
    start = tl.load(offsets + segment)
    stop = tl.load(offsets + segment + 1)
    highest = tl.load(top + segment * E + each, mask=is_query, other=0.0)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    of_queries = is_query[:, None] & inside[None, :]
    where = each[:, None] * C + channel[None, :]
    grad = tl.load(dacc + segment * E * C + where, mask=of_queries, other=0.0)
    keys = tl.load(query + where, mask=of_queries, other=0.0).to(tl.float32)
    total = tl.zeros([QUERIES, CHANNELS], tl.float32)
    for at in range(start, stop, ROWS):
        row = (at + lane).to(tl.int64)
        live = row < stop
        both = live[:, None] & is_query[None, :]
        of_rows = live[:, None] & inside[None, :]
        at_scores = row[:, None] * E + each[None, :]
        score = tl.load(scores + at_scores, mask=both, other=float("-inf"))
        share = tl.exp(score - shift[None, :])
        back = tl.load(dscore + at_scores, mask=both, other=0.0)
        out = tl.dot(share, grad, input_precision="tf32x3") + tl.dot(back, keys, input_precision="tf32x3")
        tl.store(dx + row[:, None] * C + channel[None, :], out, mask=of_rows)
        rows = tl.load(x + row[:, None] * C + channel[None, :], mask=of_rows, other=0.0).to(tl.float32)
        total += tl.dot(tl.trans(back), rows, input_precision="tf32x3")
    tl.store(dquery + segment * E * C + where, total, mask=of_queries)


@operator(
    "longcompress_attend::attend(Tensor query, Tensor x, Tensor offsets, Tensor? bias, Tensor old_max, "
    "Tensor old_sum, Tensor old_acc) -> (Tensor, Tensor, Tensor, Tensor)",
    lambda query, x, offsets, bias, *old: (*map(torch.empty_like, old), _scores(query, x)),
)
def _forward(
    query: Tensor, x: Tensor, offsets: Tensor, bias: Tensor | None, *old: Tensor
) -> tuple[Tensor, ...]:
    num, width = x.shape
    segments, queries = old[0].shape
    x, query = aligned(x), aligned(query)
    scores = _scores(query, x)
    kinds = _sizes(queries, width)
    if scores.numel():
        scores_kernel[(triton.cdiv(num, ROWS),)](
            query, x, x if bias is None else aligned(bias), scores, num, BIASED=bias is not None, **kinds
        )
    out = [part.new_empty(part.shape) for part in old]
    if out[-1].numel():
        grid = (segments, triton.cdiv(width, CHANNELS))
        packed = [aligned(part) for part in (offsets, *old)]
        read_kernel[grid](x, scores, *packed, *out, **kinds)
    return *out, scores


@operator(
    "longcompress_attend::attend_backward(Tensor query, Tensor x, Tensor offsets, Tensor scores, Tensor top, "
    "Tensor dtotal, Tensor dacc, Tensor dm, Tensor first) -> (Tensor, Tensor, Tensor)",
    lambda query, x, *_: (
        x.new_empty(x.shape),
        _scores(query, x),
        query.new_empty(query.shape, dtype=torch.float32),
    ),
)
def _backward(
    query: Tensor, x: Tensor, offsets: Tensor, scores: Tensor, top: Tensor, dtotal: Tensor, dacc: Tensor,
    dm: Tensor, first: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    num, width = x.shape
    segments, queries = top.shape
    x, query, dacc, offsets = aligned(x), aligned(query), aligned(dacc), aligned(offsets)
    dtotal, dm = aligned(dtotal), aligned(dm)
    kinds = _sizes(queries, width)
    dscore = _scores(query, x)
    dx = x.new_empty((num, width), dtype=x.dtype if x.is_cuda else torch.float32)
    dquery = x.new_empty((segments, queries, width), dtype=torch.float32)
    if dquery.numel():
        if num:
            score_grad_kernel[(segments,)](x, scores, offsets, dtotal, dacc, dm, top, first, dscore, **kinds)
        grid = (segments, triton.cdiv(width, CHANNELS))
        token_grad_kernel[grid](query, x, scores, offsets, dacc, top, dscore, dx, dquery, **kinds)
    return dx.to(x.dtype), dscore, dquery.sum(0)


def _scores(query: Tensor, x: Tensor) -> Tensor:
    """(N, E) float32, for a number of each token and query."""
    return x.new_empty((x.shape[0], query.shape[0]), dtype=torch.float32)


def _sizes(queries: int, width: int) -> dict[str, int]:
    """What all kernels are compiled for."""
    wide = max(16, triton.next_power_of_2(max(1, queries)))
    return {"E": queries, "QUERIES": wide, "C": width, "ROWS": ROWS, "CHANNELS": CHANNELS}


class Attend(torch.autograd.Function):
    """What `attend` means: (max, sum, acc) after the tokens. The adjoint goes over the saved scores: with
    share = exp(score - max),

    dscore = share (dsum + dacc . x), and dmax - dsum sum - dacc . acc more where a score is the maximum.
    """

    @staticmethod
    def forward(ctx, query, x, offsets, bias, old_max, old_sum, old_acc):
        top, total, acc, scores = _forward(query, x, offsets, bias, old_max, old_sum, old_acc)
        ctx.save_for_backward(query, x, offsets, scores, old_max, old_sum, old_acc, top, total, acc)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return top, total, acc

    @staticmethod
    @once_differentiable
    def backward(ctx, dtop, dtotal, dacc):
        query, x, offsets, scores, old_max, old_sum, old_acc, top, total, acc = ctx.saved_tensors
        dm = dtop - dtotal * total - (dacc * acc).sum(-1)
        first = _first_best(scores, top, old_max, offsets)
        dx, dscore, dquery = _backward(query, x, offsets, scores, top, dtotal, dacc, dm, first)
        shift = torch.where(top.isinf(), torch.zeros_like(top), top)
        old_share = torch.where(old_sum > 0, (old_max - shift).exp(), torch.zeros_like(top))
        dold_max = old_share * (dtotal * old_sum + (dacc * old_acc).sum(-1))
        dold_max = dold_max + torch.where(old_max == top, dm, torch.zeros_like(dm))
        dbias = None if ctx.bias_dtype is None else dscore.sum(1).to(ctx.bias_dtype)
        return (
            dquery.to(query.dtype), dx, None, dbias, dold_max, old_share * dtotal,
            old_share[..., None] * dacc,
        )  # fmt: skip


def _first_best(scores: Tensor, top: Tensor, old_max: Tensor, offsets: Tensor) -> Tensor:
    """(S, E) int64 the first token of a segment whose score is the new maximum; -1 where the old one was."""
    num = len(scores)
    number = torch.arange(num, device=scores.device)
    of = torch.searchsorted(offsets[1:].contiguous(), number.to(offsets.dtype), right=True)
    at = torch.where(scores == top[of], number[:, None], num)
    first = torch.full_like(top, num, dtype=torch.int64)
    first = first.scatter_reduce(0, of[:, None].expand_as(at), at, "amin")
    return torch.where((old_max == top) | (first == num), -1, first)
