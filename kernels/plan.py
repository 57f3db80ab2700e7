"""Which tokens become one: rounds of bipartite soft matching on a small metric, composed into one map.

The matching is that of ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461), as LongVLM (ECCV 2024,
arXiv 2404.03384) uses it per segment; the Ward score, gentle rounds and seat order are this project's.
A *seat* is a token's position in its segment in the current round.
"""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise, product
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ._checks import check_row, check_tokens, check_values, limits_of
from ._dispatch import can_wait, operator, use_triton
from .pool import Plan, means_of, pool, shares_of
from .seats import Order, Rounds, num_pairs, targets
from .tree import block_limits, plan_tree

Schedule = Rounds | Literal["tree", "blocks"]
Score = Literal["ward", "cosine"]
Precision = Literal["exact", "fast"]

# Tokens. From here a segment's similarities fill the cache, so one buffer serves all segments.
LOOP_FROM = 256
MIN_SIDE = 16  # rows; smaller matrix products take other paths in BLAS, which round equal rows differently
BATCH_SCORES = 1 << 24  # scores of a batch of small segments that are in memory at once
MOST_SCORES = 1 << 26  # scores of a large segment that are in memory at once


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
    check: bool = True,
) -> Plan:
    """Which tokens of each segment become one, so that exactly min(keep, n) groups are left.

    A round over n tokens matches even seats against odd ones and merges the best
    r = min(max(1, floor(schedule * n)), floor(n / 2), n - keep) pairs; a merged group takes its odd token's
    seat. Ties go to the lowest seat. Nothing here has a gradient.

    Stopping after a full round (one that `keep` did not shorten) and planning on from the group means and
    masses gives the plan of going through. After several rounds at once the means may differ in the last
    bit, and then a tie may fall otherwise.

    Args:
        metric: (N, d) float, a linear map of the features; float64 is worked in float64, all else in float32.
        offsets: (S + 1,) int32, where each segment's tokens begin.
        keep: groups a segment may have at most, >= 1: one number or (S,).
        weight: (N,) how many raw tokens each one stands for, >= 0 (a token of weight 0 is a zero vector);
            None: 1.
        schedule: fraction of a round's tokens that merge, in (0, 0.5], or the r of each round (the last one
            repeats); "tree": no rounds, but the cut of `tree` at `keep` (score "ward", order "seat", by which
            groups then come by their lowest tokens). Its plans nest for every keep. "blocks": rounds of a
            quarter, first inside of blocks of about 320 tokens, each to a quarter, and then whole.
        score: "ward" = -(wa wb / (wa + wb)) |a - b|^2, or "cosine" (-1 with a zero vector).
        order: "seat", or "reference" (the order of ToMe and LongVLM): between rounds and in the result,
            first the unmerged even tokens by falling score, then the odd ones.
        precision: "exact" decides in float32; "fast" lets the Triton kernels take scores from float16
            products, whose partners may be worse by 5e-4 of |a||b| (the torch path stays exact). In a video
            that hardly moves that can be twice the cost of the best.
        check: look for values that aren't finite, for which a GPU is waited. Without it they give some plan
            (the tree always looks).

    Returns:
        Plan whose groups of a segment come in seat order (or `order="reference"`).

    On a GPU with `offsets` on the CPU only the check that all values are finite waits for the device. While a
    CUDA graph is captured nothing waits: `offsets` and `keep` must be on the CPU, the same lengths must have
    been planned before, and nobody checks that values are finite.

    A ValueError names the segment of a value that is not finite.
    """
    if torch.compiler.is_compiling():
        return _plan_in_graph(metric, offsets, keep, weight, schedule, check, score, order, precision)
    at = _check_arguments(metric, offsets, weight, schedule, score, order, precision)
    limits = limits_of(keep, len(at) - 1)
    if schedule == "tree":
        if can_wait(metric):
            check_values(metric, weight, at)
        return plan_tree(metric, at, limits, weight)
    if schedule == "blocks":
        return _plan_blocks(metric, at, limits, weight, score, order, precision, check)
    if not isinstance(schedule, float | int):
        schedule = tuple(schedule)
    if not use_triton("plan", metric):
        if check:
            check_values(metric, weight, at)
        return plan_reference(metric, at, limits, weight, schedule, score, order)
    from .gpu.plan import plan_triton

    lengths = tuple(b - a for a, b in pairwise(at))
    *planned, bad = plan_triton(
        metric.detach().float(), weight, lengths, tuple(limits), schedule, ward=score == "ward",
        reference=order == "reference", fast=precision == "fast", capturing=not can_wait(metric),
    )  # fmt: skip
    if check and can_wait(metric):  # only now, when everything is launched
        check_row(int(bad), at)
    return Plan(*planned)


def _plan_blocks(
    metric: Tensor, at: list[int], limits: list[int], weight: Tensor | None, score: Score, order: Order,
    precision: Precision, check: bool,
) -> Plan:  # fmt: skip
    """`plan` by rounds of a quarter inside of blocks, and then whole."""
    blocks = [block_limits(b - a, keep) for (a, b), keep in zip(pairwise(at), limits, strict=True)]
    how: Any = {"score": score, "order": order, "precision": precision}
    sizes, goals = torch.tensor(list(chain.from_iterable(blocks)), dtype=torch.int64).reshape(-1, 2).t()
    if check and can_wait(metric):  # here, where a token's segment is known
        check_values(metric, weight, at)
    inner = plan(metric, _offsets(sizes.tolist()), goals, weight=weight, check=False, **how)
    metric = metric.detach().to(torch.promote_types(metric.dtype, torch.float32))
    rows, keep = _offsets([sum(goal for _, goal in segment) for segment in blocks]), torch.tensor(limits)
    outer = plan(pool(metric, inner), rows, keep.long(), weight=inner.mass, check=False, **how)
    return outer._replace(group=outer.group[inner.group.long()], weight=inner.weight)


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def after_rounds(
    num_tokens: int, schedule: float, *, rounds: int | None = None, min_tokens: int = 1
) -> tuple[int, int]:
    """(tokens left, rounds run) after full rounds over num_tokens, at most `rounds` of them (None: any
    number). A round merges the fraction `schedule`; none is run that would leave fewer than `min_tokens`."""
    done = 0
    while num_tokens > 1 and (rounds is None or done < rounds):
        left = num_tokens - num_pairs(num_tokens, schedule, done)
        if left < min_tokens:
            break
        num_tokens, done = left, done + 1
    return num_tokens, done


def plan_reference(
    metric: Tensor, at: list[int], keep: list[int], weight: Tensor | None, schedule: Rounds, score: Score,
    order: Order,
) -> Plan:  # fmt: skip
    """What `plan` means, in plain torch: segments of equal length go together. Also the path on CPU."""
    device, num = metric.device, metric.shape[0]
    metric = metric.detach().to(torch.promote_types(metric.dtype, torch.float32))
    if weight is None:
        weight = torch.ones(num, device=device)
    else:  # a token without weight is a zero vector, before its first merge as after it
        weight = weight.detach().float()
        metric = metric.masked_fill((weight == 0)[:, None], 0)
    lengths = [b - a for a, b in pairwise(at)]
    limits = [min(k, n) for k, n in zip(keep, lengths, strict=True)]
    starts = [0, *accumulate(limits)]

    group = torch.empty(num, dtype=torch.int64, device=device)
    for n in sorted(set(lengths) - {0}):
        segments = [s for s, length in enumerate(lengths) if length == n]
        first_row, first_group = torch.tensor([[at[s], starts[s]] for s in segments], device=device).t()
        rows = first_row[:, None] + torch.arange(n, device=device)  # (segments, n)
        x, w, num_groups = metric[rows], weight[rows].to(metric.dtype), [limits[s] for s in segments]
        local = _run_rounds(x, w, num_groups, schedule, score, order)
        group[rows] = local + first_group[:, None]

    mass = torch.zeros(starts[-1], dtype=torch.float64, device=device).index_add_(0, group, weight.double())
    return Plan(group.int(), weight, mass.float(), torch.tensor(starts, dtype=torch.int32, device=device))


def _run_rounds(
    x: Tensor, w: Tensor, keep: list[int], schedule: Rounds, score: Score, order: Order
) -> Tensor:
    """(S, n) int64: the group of each token of a segment, from metric x (S, n, d) and weights w (S, n)."""
    num_segments, n = w.shape
    group = torch.arange(n, device=w.device).repeat(num_segments, 1)
    # The segments that still have too many tokens. x and w hold their tokens, all of one length n, and lose
    # the rows of the segments that finish.
    active = [s for s in range(num_segments) if keep[s] < n]
    x, w = _select(active, num_segments, x, w)
    done = 0
    while active:
        n = x.shape[1]
        full = num_pairs(n, schedule, done)
        pairs = torch.tensor([min(full, n - keep[s]) for s in active], device=w.device)

        # Match, and compose the map: a raw token is where its token of this round goes.
        best, partner = best_partner(x, w, score)
        target = targets(best, partner, pairs, n, order)  # (active, n)
        rows = torch.tensor(active, device=w.device)
        group[rows] = target.gather(1, group[rows])

        # Finished: a segment whose round `keep` cut short, or whose full round ended exactly at `keep`. Its
        # means are never read. All others ran a full round, so they are of one length again.
        left = n - full
        unfinished = [i for i, s in enumerate(active) if keep[s] < left]
        x, w, target = _select(unfinished, len(active), x, w, target)
        active = [active[i] for i in unfinished]

        # Full: the next round matches the means of this one.
        if active:
            x, w = _merge(x, w, target, left)
        done += 1
    return group


def _select(rows: list[int], num: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """These of the `num` rows of each tensor; no copy where they are all."""
    if len(rows) == num:
        return tensors
    index = torch.tensor(rows, dtype=torch.int64, device=tensors[0].device)
    return tuple(tensor[index] for tensor in tensors)


def _merge(x: Tensor, w: Tensor, target: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """Means (S, left, d) and masses (S, left) after a round, by the arithmetic of `pool`."""
    num_segments = len(x)
    # number the groups of all segments in one line, so that one call averages them all
    group = target + left * torch.arange(num_segments, device=w.device)[:, None]
    group, weight = group.flatten(), w.flatten()
    mass = weight.new_zeros(num_segments * left).index_add_(0, group, weight)
    share = shares_of(group, weight, mass, x.dtype)
    means = means_of(x.flatten(0, 1), group, share, num_segments * left)
    return means.unflatten(0, (num_segments, left)), mass.unflatten(0, (num_segments, left))


def best_partner(x: Tensor, w: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """(S, ceil(n/2)) best score of each even seat and the odd seat's number that gives it, lowest on ties."""
    even, odd = _factors(x, score)
    num_even, num_odd = (x.shape[1] + 1) // 2, x.shape[1] // 2
    step = max(1, BATCH_SCORES // (even.shape[1] * odd.shape[1]))
    scores, partners = [], []
    # large segments go through a buffer that stays in the cache, some rows at a time where they have too many
    # scores; small ones in batches
    buffer = spare = None
    block = even.shape[1]
    if x.shape[1] >= LOOP_FROM:
        step, block = 1, min(block, -(-max(MIN_SIDE, MOST_SCORES // odd.shape[1]) // MIN_SIDE) * MIN_SIDE)
        buffer = x.new_empty(block, odd.shape[1])
        spare = torch.empty_like(buffer)
    # Some CPUs round float64 products by the size of the batch and the alignment of its rows, so each segment
    # gets a product of its own, of rows copied to a place of their own.
    if alone := x.dtype == torch.float64:
        step = 1
    for s, first in product(range(0, len(x), step), range(0, num_even, block)):
        rows, columns = even[s : s + step, first : first + block], odd[s : s + step]
        if buffer is None:
            if alone:
                rows, columns = rows.clone(), columns.clone()
            dots = torch.bmm(rows, columns.transpose(1, 2))
        else:
            dots = torch.mm(rows[0], columns[0].t(), out=buffer[: rows.shape[1]])[None]
        dots = dots[:, : num_even - first, :num_odd]
        if score == "ward":
            dots = _over_weights(dots, w[s : s + step], first, spare)
        best = _first_best(dots)
        scores.append(dots.gather(2, best[..., None]).flatten())
        partners.append(best.flatten())
    return torch.cat(scores).view(len(x), num_even), torch.cat(partners).view(len(x), num_even)


def _first_best(scores: Tensor) -> Tensor:
    """(S, rows) int64 column of the best score of each row, the first of equal ones. On a CPU NumPy finds it
    ten times faster."""
    return torch.from_numpy(scores.numpy().argmax(2)) if scores.is_cpu else scores.argmax(2)


def _over_weights(dots: Tensor, w: Tensor, first: int, spare: Tensor | None) -> Tensor:
    """Ward's scores (S, even from `first` on, odd) from -|a - b|^2: over 1/wa + 1/wb; a weight of 0 makes a
    merge free.

    A large segment (S = 1, `spare` to write to) whose weights are all equal, as raw tokens' are, gets
    -|a - b|^2 as it is. That is a positive multiple of its score, so the same pairs are best, and the first
    round, the largest, needs no division.
    """
    inverse = 1 / w
    near, far = inverse[:, 0::2, None][:, first : first + dots.shape[1]], inverse[:, None, 1::2]
    if spare is None:
        return dots / (near + far)
    if bool((w == w[:, :1]).all() and w[0, 0] > 0):
        return dots
    return torch.div(dots, torch.add(near[0], far[0], out=spare[: dots.shape[1]])[None], out=dots)


def _factors(x: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Even and odd rows (S, side, d + 2) whose products are the cosines, or -|a - b|^2 for ward."""
    unit_column = torch.ones_like(x[..., :1])
    if score == "ward":  # 2 a.b - |a|^2 - |b|^2
        square = (x * x).sum(-1, keepdim=True)
        even = torch.cat([2 * x, -square, -unit_column], -1)[:, 0::2]
        odd = torch.cat([x, unit_column, square], -1)[:, 1::2]
    else:  # a.b / |a||b|; with a zero vector on either side, -1
        length = x.norm(dim=-1, keepdim=True)
        zero = (length == 0).to(x.dtype)
        unit = x / torch.where(length == 0, unit_column, length)
        even = torch.cat([unit, -zero, zero - 1], -1)[:, 0::2]
        odd = torch.cat([unit, unit_column, zero], -1)[:, 1::2]
    if odd.shape[1] < MIN_SIDE:
        even = torch.nn.functional.pad(even, (0, 0, 0, max(0, MIN_SIDE - even.shape[1])))
        odd = torch.nn.functional.pad(odd, (0, 0, 0, MIN_SIDE - odd.shape[1]))
    return even.contiguous(), odd.contiguous()


def _check_arguments(
    metric: Tensor, offsets: Tensor, weight: Tensor | None, schedule: Schedule, score: str, order: str,
    precision: str,
) -> list[int]:  # fmt: skip
    """`offsets` as a list, or ValueError for an argument of `plan` that is out of shape or range."""
    at = check_tokens(metric, offsets, weight)
    if schedule == "tree":
        if (score, order) != ("ward", "seat"):
            raise ValueError(
                f"schedule 'tree' needs score 'ward' and order 'seat', got {score!r} and {order!r}"
            )
    elif isinstance(schedule, float | int):
        if not 0 < schedule <= 0.5:
            need = "a fraction in (0, 0.5] or a list of pairs a round"
            raise ValueError(f"schedule must be {need}, got {schedule}")
    elif isinstance(schedule, str):
        if schedule != "blocks":
            need = "a fraction, a list of pairs a round, 'tree' or 'blocks'"
            raise ValueError(f"schedule must be {need}, got {schedule!r}")
    elif not len(schedule) or any(not isinstance(r, int) or r < 1 for r in schedule):
        raise ValueError(f"schedule must list at least one round, each of >= 1 pairs, got {list(schedule)}")
    names = {"score": (score, Score), "order": (order, Order), "precision": (precision, Precision)}
    for name, (value, known) in names.items():
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}")
    return at


# --- `plan` as one operator, for graphs that are compiled or exported: its checks run when it runs


def _plan_in_graph(
    metric: Tensor, offsets: Tensor, keep: int | Tensor, weight: Tensor | None, schedule: Schedule,
    check: bool, *names: str,
) -> Plan:  # fmt: skip
    """`plan` where torch traces; `names` are score, order and precision."""
    if not isinstance(keep, Tensor):
        keep = torch.full((offsets.shape[0] - 1,), keep, dtype=torch.int64, device=offsets.device)
    fraction = float(schedule) if isinstance(schedule, float | int) else 0.0
    pairs = [] if isinstance(schedule, float | int | str) else list(schedule)
    word = schedule if isinstance(schedule, str) else ""
    return Plan(*_plan_operator(metric.detach(), offsets, keep, weight, fraction, pairs, word, check, *names))


def _plan_fake(metric: Tensor, offsets: Tensor, *_: Any) -> tuple[Tensor, ...]:
    groups = torch.library.get_ctx().new_dynamic_size()  # known when it runs, not when it is traced
    sizes: tuple[Any, ...] = (metric.shape[0], metric.shape[0], groups, offsets.shape[0])
    types = (torch.int32, torch.float32, torch.float32, torch.int32)
    return tuple(metric.new_empty((n,), dtype=t) for n, t in zip(sizes, types, strict=True))


@operator(
    "longcompress_plan::plan(Tensor metric, Tensor offsets, Tensor keep, Tensor? weight, float fraction, "
    "int[] pairs, str word, bool check, str score, str order, str precision) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _plan_fake,
    torch.Tag.cudagraph_unsafe,  # it reads offsets, and launches differ from call to call
)
def _plan_operator(
    metric: Tensor, offsets: Tensor, keep: Tensor, weight: Tensor | None, fraction: float, pairs: list[int],
    word: Any, check: bool, score: Any, order: Any, precision: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    group, weight, mass, starts = plan(
        metric, offsets, keep, weight=weight, schedule=pairs or fraction or word, score=score, order=order,
        precision=precision, check=check,
    )  # fmt: skip
    return group, weight.clone(), mass, starts  # an operator's results are its own
