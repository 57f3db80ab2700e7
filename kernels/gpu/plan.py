"""`plan` on the GPU: the layout of the lengths decides every launch, only kernels read values."""

from typing import Any

import torch
import triton
from torch import Tensor

from .._dispatch import aligned, on_its_device
from ..seats import targets
from . import plan_rounds as rounds
from .order import remember, sort_tokens
from .plan_layout import ALIGNED, LONGEST, Layout, Long, Round, Tiles, layout_of

EVENS, FEW_EVENS = 128, 64  # rows of a tile of scores; the few for a deep metric and in a tail
ODDS = 32  # columns of it
ROWS = 64  # raw tokens that are measured at once
GROUPS, TAIL_GROUPS = 16, 32  # groups merged at once
TOKENS = 1024  # raw tokens whose map is composed at once
TAIL = 512  # tokens; a segment of no more goes through its remaining rounds in one program
DEEP, SLICE = 64, 32  # channels of a metric that stay in registers; a deeper one is read in slices
FEW_SEATS = 1024  # of the sorts; fewer would only be more forms to compile
START_WARPS, MERGE_WARPS, TAIL_WARPS = 4, 4, 8
# Means and squares are the same to the bit in every kernel: none may fuse a product with a sum.
PLAIN: dict[str, Any] = {"enable_fp_fusion": False}


@on_its_device
def plan_triton(
    metric: Tensor, weight: Tensor | None, lengths: tuple[int, ...], keep: tuple[int, ...],
    schedule: float | tuple[int, ...], *, ward: bool, reference: bool, fast: bool, capturing: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(what a Plan has, () int32 the first token whose metric or weight isn't finite, or N); nothing waits.

    metric is (N, d) float32, weight (N,) or None. Not `ward` is the cosine, not `reference` the order of
    seats, `fast` takes scores from one float16 product. ValueError while capturing, before anything is
    launched, unless the lengths were planned before.
    """
    num, width = metric.shape
    tiles = Tiles(TAIL, ROWS, tile_of(width)["EVENS"], GROUPS)
    layout = layout_of(lengths, keep, schedule, tiles, metric.device, capturing=capturing)
    metric = aligned(metric)
    state = start(metric, weight, layout, ward)
    for k, a_round in enumerate(layout.rounds):
        match(state, a_round, k, equal=ward and weight is None and k == 0, fast=fast)
        for segment in a_round.long:
            _select(state, segment, k, reference)
        if a_round.longest:
            seats = seats_of(a_round.longest)
            rows = a_round.rows[len(a_round.long) :]
            rounds.select_kernel[(len(rows),)](
                *state.numbers, *state.pairs, *state.slots, rows, num, (k + 1) % 2, REFERENCE=reference,
                SEATS=seats, num_warps=warps_of(seats),
            )  # fmt: skip
        rounds.merge_kernel[(len(a_round.merging),)](
            metric, state.work, *state.numbers, *state.halves, *state.slots, state.mass, state.group,
            a_round.rows, a_round.merging, num, (k + 1) % 2, GROUPS=GROUPS, TOKENS=TOKENS,
            num_warps=MERGE_WARPS, **state.kind, **PLAIN,
        )  # fmt: skip
    if len(layout.tails):
        rounds.tail_kernel[(len(layout.tails),)](
            metric, state.work, *state.numbers, *state.halves, *state.pairs, *state.slots, state.mass,
            state.group, layout.tails, layout.steps, num, WIDE=wide_of(width), REFERENCE=reference,
            EVENS=FEW_EVENS, ODDS=ODDS, SEATS=max(2, triton.next_power_of_2(TAIL)), GROUPS=TAIL_GROUPS,
            TOKENS=TOKENS, num_warps=TAIL_WARPS, **state.kind, **PLAIN,
        )  # fmt: skip
    if 0 < layout.longest <= LONGEST:
        order, first, starts = (
            metric.new_empty((n,), dtype=torch.int32) for n in (num, layout.num_groups + 1, len(lengths) + 1)
        )
        seats = seats_of(layout.longest)
        rounds.finish_kernel[(len(lengths),)](
            state.group, order, state.slots[0], first, starts, layout.segments, num, layout.num_groups,
            SEATS=seats, num_warps=warps_of(seats),
        )  # fmt: skip
    else:
        starts = layout.starts.clone()
        order, first = sort_tokens(state.group, layout.num_groups)
    remember(state.group, order, first)
    return state.group, state.weight, state.mass, starts, state.bad


class State:
    """What the kernels write, from each segment's first token on; see plan_tiles."""

    def __init__(self, metric: Tensor, weight: Tensor | None, layout: Layout, ward: bool):
        num, width = metric.shape
        integers = torch.int32
        room = -(-num // ALIGNED) * ALIGNED  # so that each of several arrays is aligned
        self.metric, self.kind = metric, {"D": width, "SLICE": slice_of(width), "WARD": ward}
        self.weight = metric.new_empty((num,)) if weight is None else aligned(weight.detach().float())
        numbers = metric.new_empty((4, 2 * room)).unbind()
        self.numbers = (*numbers, metric.new_empty((2 * room,), dtype=integers))
        self.halves = metric.new_empty((2, room * width), dtype=torch.float16).unbind()
        self.work = metric.new_empty((layout.work_rows, width))
        target, first, source, home, partner = metric.new_empty((5, room), dtype=integers).unbind()
        best, part = metric.new_empty((2, room)).unbind()
        self.pairs, self.slots = (best, partner), (target, first, part, source, home)
        self.group = metric.new_empty((num,), dtype=integers)
        self.mass = metric.new_empty((layout.num_groups,))
        self.bad = torch.full((), num, device=metric.device, dtype=integers)


def start(metric: Tensor, weight: Tensor | None, layout: Layout, ward: bool) -> State:
    """The state of all raw tokens of metric (N, d) float32 and weight (N,) or None."""
    state = State(metric, weight, layout, ward)
    if len(metric):
        rounds.start_kernel[(len(layout.programs),)](
            metric, state.weight, *state.numbers, *state.halves, state.group, state.mass, state.bad,
            layout.segments, layout.programs, len(metric), WEIGHTED=weight is not None, ROWS=ROWS,
            num_warps=START_WARPS, **state.kind, **PLAIN,
        )  # fmt: skip
    return state


def match(state: State, a_round: Round, number: int, *, equal: bool, fast: bool) -> None:
    """The best partner of each even seat in the round of this number, to state.pairs."""
    width = state.metric.shape[1]
    rounds.match_kernel[(len(a_round.programs),)](
        *state.numbers, *state.halves, *state.pairs, a_round.rows, a_round.programs, len(state.metric),
        (number + 1) % 2, WIDE=wide_of(width), EQUAL=equal, FAST=fast, **state.kind, **tile_of(width),
    )  # fmt: skip


def _select(state: State, segment: Long, number: int, reference: bool) -> None:
    """`select_pairs` of a segment in the round of this number, by torch."""
    at, n, pairs, room, is_raw = segment
    num, left, num_even = len(state.metric), n - pairs, (n + 1) // 2
    now, new = (num * ((number + k) % 2) + at for k in (0, 1))
    weight, row = (state.numbers[k][now : now + n] for k in (0, 4))
    best, partner = (t[None, at : at + num_even] for t in state.pairs)
    merging = torch.full((1,), pairs, device=best.device)
    target = targets(best, partner.long(), merging, n, "reference" if reference else "seat")[0]
    order, first = sort_tokens(target, left)
    home = row.new_zeros(left).scatter_reduce_(0, target, row, "amax")
    starts = (first.diff() > 1) & (home < num)
    used = row.new_zeros(()) if is_raw else state.numbers[4][now + n]
    count = starts.cumsum(0, dtype=torch.int32)
    home = torch.where(starts, num + room + used + count - 1, home)
    state.numbers[4][new + left] = used + count[-1]
    for slots, values in zip(state.slots, (target, first[:-1], weight[order], row[order], home), strict=True):
        slots[at : at + len(values)] = values


def tile_of(width: int) -> dict[str, int]:
    """Rows and columns of a tile of scores and the warps that share it, for metrics (N, width)."""
    deep = width > DEEP
    return {"EVENS": FEW_EVENS if deep else EVENS, "ODDS": ODDS, "num_warps": 4 if deep else 8}


def wide_of(width: int) -> int:
    """The power of two from `width` on, as products need it."""
    return max(16, triton.next_power_of_2(width))


def slice_of(width: int) -> int:
    """Channels that are in registers at once."""
    return wide_of(width) if wide_of(width) <= DEEP else SLICE


def seats_of(n: int) -> int:
    """Seats that a program for at most n tokens sorts."""
    return max(FEW_SEATS, triton.next_power_of_2(n))


def warps_of(seats: int) -> int:
    """Warps of a program that sorts `seats` seats."""
    return 4 if seats <= FEW_SEATS else 8 if seats <= 2 * FEW_SEATS else 16
