"""The kernels of `plan`: a step for all segments at once, or all rounds of a short one in one program.

Numbers of a launch are not specialised, and the arrays are aligned by whoever makes them, so that lengths not
seen before compile nothing.
"""

import triton
import triton.language as tl

from .plan_tiles import (
    compose_map,
    load_rows,
    match_tile,
    merge_tile,
    select_pairs,
    sort_tokens,
    store_halves,
    store_token,
    sum_of_squares,
)

COLUMNS = tl.constexpr(8)  # of the rows that say what to do with a segment: see plan_layout


@triton.jit
def state_of(weight, square, lower, scale, row, split, first, at):
    """The numbers of a segment's seats, of which there are two sets (see plan_tiles); `first` or not."""
    at += tl.where(first, 0, split.to(tl.int64))
    return weight + at, square + at, lower + at, scale + at, row + at


@triton.jit
def segment_of(rows, programs, first):
    """(its row, the tile) of a program: `programs` says the number of its row, whose column `first` is the
    first of its programs."""
    row = rows + tl.load(programs + tl.program_id(0)).to(tl.int64) * COLUMNS
    return row, tl.program_id(0) - tl.load(row + first)


@triton.jit(do_not_specialize=["split"])
def start_kernel(
    metric, own, weight, square, lower, scale, row, high, low, group, mass, bad, rows, programs,
    split, D: tl.constexpr, SLICE: tl.constexpr, WARD: tl.constexpr, WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The state of all raw tokens and their groups: their seats, or what they are where nothing merges.

    bad: the lowest token whose metric or weight is no number; tokens of weight 0 may hold anything.
    """
    segment, tile = segment_of(rows, programs, 4)
    base = tl.load(segment).to(tl.int64)
    n = tl.load(segment + 1)
    start = tl.load(segment + 2)
    alone = tl.load(segment + 3) > 0
    seat = tile * ROWS + tl.arange(0, ROWS)
    live = seat < n
    if WEIGHTED:
        part = tl.load(own + base + seat, mask=live, other=0.0)
    else:
        part = tl.full([ROWS], 1.0, tl.float32)
        tl.store(own + base + seat, part, mask=live)
    tl.store(group + base + seat, seat + tl.where(alone, start, 0), mask=live)
    tl.store(mass + start + seat, part, mask=live & alone)
    raw = (base + seat).to(tl.int32)
    total = tl.zeros([ROWS], tl.float32)
    value = tl.zeros([ROWS, SLICE], tl.float32)
    for slice in range(0, D, SLICE):
        value = load_rows(metric, metric, raw, split, slice, live & (part > 0), D, D, SLICE)
        total += sum_of_squares(value)
    fine = (total < float("inf")) & (part >= 0) & (part < float("inf"))
    tl.atomic_min(bad + seat * 0, raw, mask=live & ~fine)
    state = state_of(weight, square, lower, scale, row, split, True, base)
    high += base * D
    low += base * D
    store_token(value, total, part, raw, live, seat, state, high, low, D, SLICE, WARD)
    if D > SLICE:
        for slice in range(0, D, SLICE):
            value = load_rows(metric, metric, raw, split, slice, live & (part > 0), D, D, SLICE)
            of = tl.load(state[3] + seat, mask=live, other=0.0)
            store_halves(value, total, of, live, seat, slice, high, low, D, D, SLICE, WARD)


@triton.jit(do_not_specialize=["split", "even_round"])
def match_kernel(
    weight, square, lower, scale, row, high, low, best, partner, rows, programs, split, even_round,
    D: tl.constexpr, WIDE: tl.constexpr, SLICE: tl.constexpr, WARD: tl.constexpr, EQUAL: tl.constexpr,
    FAST: tl.constexpr, EVENS: tl.constexpr, ODDS: tl.constexpr,
):  # fmt: skip
    """`match_tile` of every segment of a round; a segment's programs lie side by side."""
    segment, tile = segment_of(rows, programs, 4)
    base = tl.load(segment).to(tl.int64)
    n = tl.load(segment + 1)
    state = state_of(weight, square, lower, scale, row, split, even_round > 0, base)
    match_tile(
        state, high + base * D, low + base * D, best + base, partner + base, n, tile, D, WIDE, SLICE, WARD,
        EQUAL, FAST, EVENS, ODDS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["split", "even_round"])
def select_kernel(
    weight, square, lower, scale, row, best, partner, target, first, part, source, home, rows, split,
    even_round, REFERENCE: tl.constexpr, SEATS: tl.constexpr,
):  # fmt: skip
    """`select_pairs` of every segment of a round, a program each."""
    segment = rows + tl.program_id(0).to(tl.int64) * COLUMNS
    base = tl.load(segment).to(tl.int64)
    state = state_of(weight, square, lower, scale, row, split, even_round > 0, base)
    new_state = state_of(weight, square, lower, scale, row, split, even_round == 0, base)
    slots = target + base, first + base, part + base, source + base, home + base
    select_pairs(
        state, new_state, best + base, partner + base, slots, tl.load(segment + 1), tl.load(segment + 2),
        tl.load(segment + 5), split, tl.load(segment + 3), REFERENCE, SEATS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["split", "even_round"])
def merge_kernel(
    metric, work, weight, square, lower, scale, row, high, low, target, first, part, source, home, mass,
    group, rows, programs, split, even_round, D: tl.constexpr, SLICE: tl.constexpr, WARD: tl.constexpr,
    GROUPS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """`merge_tile` of every segment of a round, and the map of its raw tokens, dealt out to its programs."""
    segment, tile = segment_of(rows, programs, 7)
    base = tl.load(segment).to(tl.int64)
    n = tl.load(segment + 1)
    left = n - tl.load(segment + 2)
    raw_tokens = tl.load(segment + 5)
    final = tl.load(segment + 6)
    new_state = state_of(weight, square, lower, scale, row, split, even_round == 0, base)
    slots = target + base, first + base, part + base, source + base, home + base
    merge_tile(
        metric, work, new_state, high + base * D, low + base * D, slots, mass, n, left, split, final, tile, D,
        SLICE, WARD, GROUPS,
    )  # fmt: skip
    step = tl.cdiv(left, GROUPS) * TOKENS
    compose_map(group + base, target + base, raw_tokens, final, tile * TOKENS, step, TOKENS)


@triton.jit(do_not_specialize=["split"])
def tail_kernel(
    metric, work, weight, square, lower, scale, row, high, low, best, partner, target, first, part, source,
    home, mass, group, rows, steps, split, D: tl.constexpr, WIDE: tl.constexpr, SLICE: tl.constexpr,
    WARD: tl.constexpr, REFERENCE: tl.constexpr, EVENS: tl.constexpr, ODDS: tl.constexpr,
    SEATS: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """All remaining rounds of a segment, one program each."""
    segment = rows + tl.program_id(0).to(tl.int64) * COLUMNS
    base = tl.load(segment).to(tl.int64)
    first_step = tl.load(segment + 1)
    end = tl.load(segment + 2)
    room = tl.load(segment + 3)
    done = tl.load(segment + 4)
    raw_tokens = tl.load(segment + 5)
    start = tl.load(segment + 6)
    best += base
    partner += base
    slots = target + base, first + base, part + base, source + base, home + base
    high += base * D
    low += base * D
    for step in range(first_step, end):
        n = tl.load(steps + 2 * step)
        pairs = tl.load(steps + 2 * step + 1)
        final = tl.where(step == end - 1, start, -1)
        even_round = (done + step - first_step) % 2 == 0
        state = state_of(weight, square, lower, scale, row, split, even_round, base)
        new_state = state_of(weight, square, lower, scale, row, split, even_round == 0, base)
        for tile in range(0, tl.cdiv((n + 1) // 2, EVENS)):
            match_tile(
                state, high, low, best, partner, n, tile, D, WIDE, SLICE, WARD, False, False, EVENS, ODDS
            )
        tl.debug_barrier()
        select_pairs(
            state, new_state, best, partner, slots, n, pairs, raw_tokens, split, room, REFERENCE, SEATS
        )
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(n - pairs, GROUPS)):
            merge_tile(
                metric, work, new_state, high, low, slots, mass, n, n - pairs, split, final, tile, D, SLICE,
                WARD, GROUPS,
            )  # fmt: skip
        compose_map(group + base, target + base, raw_tokens, final, 0, TOKENS, TOKENS)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["num", "num_groups"])
def finish_kernel(group, order, target, first, starts, rows, num, num_groups, SEATS: tl.constexpr):
    """order: the tokens of all segments by (group, token), and where each group's are first in it; starts:
    where each segment's groups are."""
    segment = rows + tl.program_id(0).to(tl.int64) * COLUMNS
    base = tl.load(segment)
    n = tl.load(segment + 1)
    start = tl.load(segment + 2)
    lane = tl.arange(0, SEATS)
    live = lane < n
    own = tl.load(group + base + lane, mask=live, other=0) - start
    tl.store(target + base + lane, own, mask=live)
    tl.debug_barrier()
    sort_tokens(target + base, order + base, first + start, base, n, SEATS)
    tl.store(starts + tl.load(segment + 5), start)
    if tl.program_id(0) == 0:
        tl.store(first + num_groups, num)
        tl.store(starts + tl.num_programs(0), num_groups)
