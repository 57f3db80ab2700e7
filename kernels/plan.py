"""Which tokens become one: rounds of bipartite soft matching on a small metric, composed into one map.

The matching is that of ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461) as LongVLM (ECCV 2024, arXiv
2404.03384)
uses it per segment; the Ward score, gentle rounds and seat order are this project's.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ._dispatch import can_wait, check_offsets, one_device, use_triton
from ._means import means_of, shares_of

Schedule = float | Sequence[int]
Score = Literal["ward", "cosine"]
Order = Literal["seat", "reference"]
Precision = Literal["exact", "fast"]

LOOP_FROM = (
    256  # tokens; from here a segment's similarities fill the cache, so one buffer serves all segments
)
LEAST_SIDE = 16  # rows; smaller matrix products take other paths in BLAS, which round equal rows differently
BATCH_SCORES = 1 << 24  # scores held at once for a batch of small segments


class Plan(NamedTuple):
    """Which tokens become one. N tokens in, M groups out, S segments."""

    group: Tensor  # (N,) int32 group of each token, in [0, M)
    weight: Tensor  # (N,) float32 raw tokens each one stands for; 0 counts for nothing
    mass: Tensor  # (M,) float32 summed weight of each group
    offsets: Tensor  # (S + 1,) int32 where each segment's groups begin


def plan(
    metric: Tensor,
    offsets: Tensor,
    keep: int | Tensor,
    *,
    weight: Tensor | None = None,
    schedule: Schedule = 0.25,
    score: Score = "ward",
    order: Order = "seat",
    precision: Precision = "exact",
) -> Plan:
    """Which tokens of each segment become one, so that exactly min(keep, n) groups are left.

    A round over n tokens matches even seats against odd ones and merges the best
    r = min(max(1, floor(schedule * n)), floor(n / 2), n - keep) pairs; a merged group keeps its odd token's
    seat.
    Stopping after a full round (one that `keep` did not shorten) and planning on from the group means and
    masses
    gives the plan of going through (after several rounds at once the means may differ in the last bit, and
    then a
    tie may fall otherwise). Ties go to the lowest seat. Nothing here has a gradient.

    Args:
        metric: (N, d) float, a linear map of the features; float64 is worked in float64, all else in float32.
        offsets: (S + 1,) int32, where each segment's tokens begin.
        keep: groups a segment may have at most, >= 1: one number or (S,).
        weight: (N,) how many raw tokens each one stands for, >= 0 (a token of weight 0 is a zero vector);
            None: 1.
        schedule: share of a round's tokens that merge, in (0, 0.5], or the r of each round (the last one
            repeats).
        score: "ward" = -(wa wb / (wa + wb)) |a - b|^2, or "cosine" (-1 with a zero vector).
        order: "seat", or "reference": between rounds and in the result, tokens left alone by falling score,
            then
            the odd ones (the order of ToMe and LongVLM).
        precision: "exact" decides in float32; "fast" lets the Triton kernels take scores from bfloat16
            products, whose partners may be worse by 4e-3 of |a||b| (the torch path stays exact).

    Returns:
        Plan whose groups of a segment come in seat order (or `order="reference"`).

    On a GPU with `offsets` on the CPU only the check that all values are finite waits for the device. While a
    CUDA graph is captured nothing waits: `offsets` must be on the CPU, the same lengths must have been
    planned before, and a token that isn't finite joins whichever token the comparisons leave it.

    Raises:
        ValueError: for shapes and ranges other than these, tensors on several devices, or a value that is not
            finite (with its segment).
    """
    if torch.compiler.is_compiling():
        return _plan_in_graph(metric, offsets, keep, weight, schedule, score, order, precision)
    at = _check(metric, offsets, weight, schedule, score, order, precision)
    kept = _keep_of(keep, len(at) - 1)
    if not isinstance(schedule, float | int):
        schedule = tuple(schedule)
    if not use_triton("plan", metric):
        _refuse(torch.isfinite(metric).all(dim=1), weight, at)
        return plan_reference(metric, at, kept, weight, schedule, score, order)
    from .plan_triton import measure, plan_triton

    metric = metric.detach().float().contiguous()
    if weight is None:
        weight = torch.ones(len(metric), device=metric.device)
    weight = weight.detach().float().contiguous()
    measured = measure(metric, weight, score == "ward")
    if can_wait(metric):
        _refuse(torch.isfinite(measured[0]), weight, at)
    group, mass, starts = plan_triton(
        metric, at, kept, weight, measured, schedule,
        ward=score == "ward", reference=order == "reference", fast=precision == "fast",
    )  # fmt: skip
    return Plan(group, weight, mass, starts)


def _plan_in_graph(
    metric: Tensor,
    offsets: Tensor,
    keep: int | Tensor,
    weight: Tensor | None,
    schedule: Schedule,
    score: Score,
    order: Order,
    precision: str,
) -> Plan:
    """`plan` where torch traces: as one operator, whose checks run when it runs."""
    from . import plan_op  # noqa: F401  (registers it)

    if not isinstance(keep, Tensor):
        keep = torch.full((offsets.shape[0] - 1,), keep, dtype=torch.int64, device=offsets.device)
    share, pairs = (float(schedule), []) if isinstance(schedule, float | int) else (0.0, list(schedule))
    return Plan(
        *torch.ops.longcompress_plan.plan(
            metric.detach(), offsets, keep, weight, share, pairs, score, order, precision
        )
    )


def after_rounds(
    num_tokens: int, schedule: float, *, rounds: int | None = None, least: int = 1
) -> tuple[int, int]:
    """(tokens left, rounds run) after full rounds over num_tokens, as long as `least` are left.

    Args:
        num_tokens: tokens before, >= 0.
        schedule: share of a round's tokens that merge.
        rounds: at most so many; None: as many as `least` allows.
        least: no round is run that would leave fewer.
    """
    done = 0
    while num_tokens > 1 and (rounds is None or done < rounds):
        left = num_tokens - _num_pairs(num_tokens, schedule, done)
        if left < least:
            break
        num_tokens, done = left, done + 1
    return num_tokens, done


def plan_reference(
    metric: Tensor,
    at: list[int],
    keep: list[int],
    weight: Tensor | None,
    schedule: Schedule,
    score: Score,
    order: Order,
) -> Plan:
    """What `plan` means, in plain torch: segments of equal length go together. Also the path on CPU.

    Args: checked ones of `plan`.
    """
    device = metric.device
    metric = metric.detach().to(torch.promote_types(metric.dtype, torch.float32))
    num = metric.shape[0]
    if weight is None:
        weight = torch.ones(num, device=device)
    else:
        weight = weight.detach().float()
        metric = metric.masked_fill(
            (weight == 0)[:, None], 0
        )  # what counts for nothing is nowhere, before and after
    lengths = [b - a for a, b in pairwise(at)]
    kept = [min(k, n) for k, n in zip(keep, lengths, strict=True)]
    starts = [0]
    for m in kept:
        starts.append(starts[-1] + m)

    group = torch.empty(num, dtype=torch.int64, device=device)
    for n in sorted(set(lengths) - {0}):
        segments = [s for s, length in enumerate(lengths) if length == n]
        rows = _rows([at[s] for s in segments], n, device)
        local = _rounds(
            metric[rows],
            weight[rows].to(metric.dtype),
            [kept[s] for s in segments],
            schedule,
            score,
            order,
        )
        first = torch.tensor([starts[s] for s in segments], device=device)
        group[rows] = local + first[:, None]

    mass = torch.zeros(starts[-1], dtype=torch.float64, device=device).index_add_(0, group, weight.double())
    out = torch.tensor(starts, dtype=torch.int32, device=device)
    return Plan(group.int(), weight, mass.float(), out)


def _rounds(x: Tensor, w: Tensor, keep: list[int], schedule: Schedule, score: Score, order: Order) -> Tensor:
    """(S, n) int64: the group of each token within its segment, for S segments of n tokens."""
    num_segments, num = w.shape
    group = torch.arange(num, device=w.device).expand(num_segments, num).clone()
    active = torch.arange(num_segments)
    done = 0
    while True:
        goes_on = torch.tensor([keep[s] < x.shape[1] for s in active.tolist()], dtype=torch.bool)
        if not goes_on.all():
            active, x, w = active[goes_on], x[goes_on], w[goes_on]
        if not len(active):
            return group
        n = x.shape[1]
        full = _num_pairs(n, schedule, done)
        pairs = torch.tensor([min(full, n - keep[s]) for s in active.tolist()], device=w.device)
        best, partner = best_partner(x, w, score)
        target = _targets(best, partner, pairs, n, order)  # (S, n) position after the round
        where = active.to(w.device)
        group[where] = target.gather(1, group[where])
        done += 1
        full_ones = (pairs == full).cpu()
        if not full_ones.all():  # those cut short by `keep` are finished
            active, x, w, target = active[full_ones], x[full_ones], w[full_ones], target[full_ones]
        x, w = _merge(x, w, target, n - full)


def _targets(best: Tensor, partner: Tensor, pairs: Tensor, n: int, order: Order) -> Tensor:
    """(S, n) int64 where each seat's token is after the best `pairs` (S,) even seats joined their
    partners."""
    num_segments, num_even = best.shape
    falling = best.sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(falling).scatter_(
        1, falling, torch.arange(num_even, device=best.device).expand_as(falling)
    )
    merges = rank < pairs[:, None]
    target = torch.empty(num_segments, n, dtype=torch.int64, device=best.device)
    if order == "reference":
        left = num_even - pairs[:, None]
        target[:, 1::2] = left + torch.arange(n // 2, device=best.device)
        target[:, 0::2] = torch.where(merges, left + partner, rank - pairs[:, None])
        return target
    stays = torch.ones(num_segments, n, dtype=torch.int64, device=best.device)
    stays[:, 0::2] = (~merges).long()
    seat = stays.cumsum(1) - 1
    target[:, 1::2] = seat[:, 1::2]
    target[:, 0::2] = torch.where(merges, seat.gather(1, 2 * partner + 1), seat[:, 0::2])
    return target


def _merge(x: Tensor, w: Tensor, target: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """Means (S, left, d) and masses (S, left) after a round, by the arithmetic of `pool`."""
    num_segments, _, d = x.shape
    flat = (target + left * torch.arange(num_segments, device=w.device)[:, None]).reshape(-1)
    mass = w.new_zeros(num_segments * left).index_add_(0, flat, w.reshape(-1))
    share = shares_of(flat, w.reshape(-1), mass, x.dtype)
    means = means_of(x.reshape(-1, d), flat, share, num_segments * left)
    return means.view(num_segments, left, d), mass.view(num_segments, left)


def best_partner(x: Tensor, w: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """(S, ceil(n/2)) best score of each even seat and the odd seat's number that gives it, lowest on ties."""
    even, odd = _sides(x, score)
    num_even, num_odd = (x.shape[1] + 1) // 2, x.shape[1] // 2
    step = max(1, BATCH_SCORES // (even.shape[1] * odd.shape[1]))
    scores, partners = [], []
    buffer = spare = None
    if x.shape[1] >= LOOP_FROM:
        step, buffer = 1, x.new_empty(even.shape[1], odd.shape[1])
        spare = torch.empty_like(buffer)
    for s in range(0, len(x), step):
        if buffer is None:
            dots = torch.bmm(even[s : s + step], odd[s : s + step].transpose(1, 2))[:, :num_even, :num_odd]
        else:
            dots = torch.mm(even[s], odd[s].t(), out=buffer)[None, :num_even, :num_odd]
        if score == "ward":
            dots = _over_weights(dots, w[s : s + step], spare)
        top = dots.max(dim=2)
        scores.append(top.values)
        partners.append(top.indices)
    return torch.cat(scores), torch.cat(partners)


def _over_weights(dots: Tensor, w: Tensor, spare: Tensor | None) -> Tensor:
    """Ward's scores (S, even, odd) from -|a - b|^2: over 1/wa + 1/wb; a weight of 0 makes a merge cost
    nothing."""
    inverse = 1 / w
    near, far = inverse[:, 0::2, None], inverse[:, None, 1::2]
    if spare is None:
        return dots / (near + far)
    if bool(
        (w == w[:, :1]).all() and w[0, 0] > 0
    ):  # one large segment of equal weights: its order is the same
        return dots
    return torch.div(dots, torch.add(near[0], far[0], out=spare[: dots.shape[1]])[None], out=dots)


def _sides(x: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Even and odd rows (S, side, d + 2) whose products are the cosines, or -|a - b|^2 for ward."""
    ones = torch.ones_like(x[..., :1])
    if score == "ward":  # 2 a.b - |a|^2 - |b|^2
        square = (x * x).sum(-1, keepdim=True)
        even = torch.cat([2 * x, -square, -ones], -1)[:, 0::2]
        odd = torch.cat([x, ones, square], -1)[:, 1::2]
    else:  # a.b / |a||b|; with a zero vector on either side, -1
        length = x.norm(dim=-1, keepdim=True)
        zero = (length == 0).to(x.dtype)
        unit = x / torch.where(length == 0, ones, length)
        even = torch.cat([unit, -zero, zero - 1], -1)[:, 0::2]
        odd = torch.cat([unit, ones, zero], -1)[:, 1::2]
    if odd.shape[1] < LEAST_SIDE:
        even = torch.nn.functional.pad(even, (0, 0, 0, max(0, LEAST_SIDE - even.shape[1])))
        odd = torch.nn.functional.pad(odd, (0, 0, 0, LEAST_SIDE - odd.shape[1]))
    return even.contiguous(), odd.contiguous()


def _num_pairs(n: int, schedule: Schedule, done: int) -> int:
    """Pairs that a full round over n tokens merges, after `done` rounds."""
    wanted = (
        int(schedule * n) if isinstance(schedule, float | int) else schedule[min(done, len(schedule) - 1)]
    )
    return min(max(1, wanted), n // 2)


def _rows(starts: list[int], n: int, device: torch.device) -> Tensor:
    """(S, n) the token rows of segments of n tokens that begin at `starts`."""
    return torch.tensor(starts, device=device)[:, None] + torch.arange(n, device=device)


def _keep_of(keep: int | Tensor, num_segments: int) -> list[int]:
    if isinstance(keep, Tensor):
        if keep.shape != (num_segments,) or keep.is_floating_point():
            raise ValueError(
                f"keep must be one integer or (S,) = ({num_segments},) integers, "
                f"got {tuple(keep.shape)} {keep.dtype}"
            )
        kept: list[int] = keep.tolist()
    elif isinstance(keep, int) and not isinstance(keep, bool):
        kept = [keep] * num_segments
    else:
        raise ValueError(f"keep must be one integer or (S,) = ({num_segments},) integers, got {keep!r}")
    if any(k < 1 for k in kept):
        raise ValueError(f"keep must be >= 1 for every segment, got {min(kept)}")
    return kept


def _check(
    metric: Tensor,
    offsets: Tensor,
    weight: Tensor | None,
    schedule: Schedule,
    score: str,
    order: str,
    precision: str,
) -> list[int]:
    if metric.dim() != 2 or not metric.is_floating_point():
        raise ValueError(f"metric must be (N, d) float, got {tuple(metric.shape)} {metric.dtype}")
    one_device(metric=metric, weight=weight)
    at = check_offsets(offsets, metric.shape[0])
    if weight is not None and weight.shape != metric.shape[:1]:
        raise ValueError(f"weight must be (N,) = ({metric.shape[0]},) like metric, got {tuple(weight.shape)}")
    if isinstance(schedule, float | int):
        if not 0 < schedule <= 0.5:
            raise ValueError(
                f"schedule must be a share in (0, 0.5] or a list of pairs a round, got {schedule}"
            )
    elif not len(schedule) or any(not isinstance(r, int) or r < 1 for r in schedule):
        raise ValueError(f"schedule must list at least one round, each of >= 1 pairs, got {list(schedule)}")
    for name, value, known in (
        ("score", score, ("ward", "cosine")),
        ("order", order, ("seat", "reference")),
        ("precision", precision, ("exact", "fast")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    return at


def _refuse(fine: Tensor, weight: Tensor | None, at: list[int]) -> None:
    """ValueError that names the first token whose metric isn't `fine` (N,) or whose weight can't be one."""
    if weight is not None:
        fine = fine & torch.isfinite(weight) & (weight >= 0)
    if bool(fine.all()):
        return
    row = int((~fine).nonzero()[0, 0])
    segment = next(s for s in range(len(at) - 1) if at[s] <= row < at[s + 1])
    what = "metric must be finite and weight finite and >= 0"
    raise ValueError(f"{what}, but token {row} (segment {segment}) is not; check the encoder's output there")
