"""The kernels of `plan`: a step for all segments at once, or all rounds of a short one in one program."""

import triton
import triton.language as tl

from .plan_tiles import compose_tile, count_tile, match_tile, merge_tile, place_tile, rank_tile, scale_of

COLUMNS = tl.constexpr(8)  # of the rows that say what a round does to a segment: see plan_layout


@triton.jit
def segment_of(rows, blocks):
    """(its row, the tile, where its tokens begin, how many) of a program; a segment's lie side by side."""
    row = rows + (tl.program_id(0) // blocks).to(tl.int64) * COLUMNS
    return row, tl.program_id(0) % blocks, tl.load(row).to(tl.int64), tl.load(row + 1)


@triton.jit(do_not_specialize=["num"])
def squares_kernel(
    x, weight, square, scale, num, D: tl.constexpr, SLICE: tl.constexpr, WARD: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """square[i] = |x[i]|^2, 0 where the weight is 0, and the scale."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < num
    mass = tl.load(weight + row, mask=live, other=0.0)
    filled = live & (mass > 0)
    column = tl.arange(0, SLICE)
    total = tl.zeros([ROWS], tl.float32)
    for slice in range(0, D, SLICE):
        value = tl.load(
            x + row[:, None] * D + (slice + column)[None, :],
            mask=filled[:, None] & (slice + column < D)[None, :], other=0.0,
        )  # fmt: skip
        total += tl.sum(value * value, axis=1)
    tl.store(square + row, total, mask=live)
    tl.store(scale + row, scale_of(total, mass, WARD), mask=live)


@triton.jit(do_not_specialize=["blocks"])
def match_kernel(
    x, square, scale, best, partner, key, rows, blocks, D: tl.constexpr, WIDE: tl.constexpr,
    SLICE: tl.constexpr, WARD: tl.constexpr, FAST: tl.constexpr, EVENS: tl.constexpr, ODDS: tl.constexpr,
):  # fmt: skip
    """`match_tile` of every segment of a round; a segment's programs lie side by side."""
    _, tile, base, n = segment_of(rows, blocks)
    if tile * EVENS < (n + 1) // 2:
        match_tile(
            x, square, scale, best, partner, key, base, n, tile, D, WIDE, SLICE, WARD, FAST, EVENS, ODDS
        )


@triton.jit(do_not_specialize=["blocks"])
def rank_kernel(best, key, rank, rows, blocks, NO_KEY: tl.constexpr, SEATS: tl.constexpr, KEYS: tl.constexpr):
    """`rank_tile` of every segment of a round."""
    row, tile, base, n = segment_of(rows, blocks)
    pairs = tl.load(row + 2)
    if tile * SEATS < (n + 1) // 2:
        rank_tile(best, key, rank, base, n, pairs, tile, NO_KEY, SEATS, KEYS)


@triton.jit(do_not_specialize=["blocks"])
def count_kernel(key, count, rows, blocks, NO_KEY: tl.constexpr, SEATS: tl.constexpr):
    """`count_tile` of every segment of a round."""
    _, tile, base, n = segment_of(rows, blocks)
    if tile * SEATS < (n + 1) // 2:
        count_tile(key, count, base, n, tile, NO_KEY, SEATS)


@triton.jit(do_not_specialize=["blocks"])
def place_kernel(
    partner, key, rank, count, order, target, first_slot, rows, blocks, NO_KEY: tl.constexpr,
    RANKED: tl.constexpr, REFERENCE: tl.constexpr, SEATS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """`place_tile` of every segment of a round."""
    row, tile, base, n = segment_of(rows, blocks)
    pairs = tl.load(row + 2)
    if tile * SEATS < (n + 1) // 2:
        place_tile(
            partner, key, rank, count, order, target, first_slot, base, n, pairs, tile, NO_KEY, RANKED,
            REFERENCE, SEATS, KEYS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["blocks"])
def merge_kernel(
    x, weight, order, target, first_slot, half_x, half_square, half_scale, half_weight, tail_x,
    tail_square, tail_scale, tail_weight, mass, group, rows, blocks, D: tl.constexpr, SLICE: tl.constexpr,
    WARD: tl.constexpr, GROUPS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """`merge_tile` of every segment of a round, and the map of its raw tokens, dealt out to its programs."""
    row, tile, base, n = segment_of(rows, blocks)
    pairs = tl.load(row + 2)
    out = tl.load(row + 3).to(tl.int64)
    raw_at = tl.load(row + 4).to(tl.int64)
    raw_tokens = tl.load(row + 5)
    final = tl.load(row + 6)
    if tile * GROUPS < n - pairs:
        if out < -1:
            merge_tile(
                x, weight, order, first_slot, tail_x, tail_square, tail_scale, tail_weight, mass, base, n,
                pairs, -2 - out, final, tile, D, SLICE, WARD, GROUPS,
            )  # fmt: skip
        else:
            merge_tile(
                x, weight, order, first_slot, half_x, half_square, half_scale, half_weight, mass, base, n,
                pairs, out, final, tile, D, SLICE, WARD, GROUPS,
            )  # fmt: skip
    for first in range(tile * TOKENS, raw_tokens, blocks * TOKENS):
        compose_tile(group, target, base, raw_at, raw_tokens, final, first, TOKENS)


@triton.jit
def tail_kernel(
    x, square, scale, weight, tail_x, tail_square, tail_scale, tail_weight, best, partner, key, rank, count,
    order, target, first_slot, mass, group, tails, steps, NO_KEY: tl.constexpr, REFERENCE: tl.constexpr,
    D: tl.constexpr, WIDE: tl.constexpr, SLICE: tl.constexpr, WARD: tl.constexpr, FAST: tl.constexpr,
    EVENS: tl.constexpr, ODDS: tl.constexpr, SEATS: tl.constexpr, KEYS: tl.constexpr, GROUPS: tl.constexpr,
    TOKENS: tl.constexpr,
):  # fmt: skip
    """All remaining rounds of a segment; between them its tokens lie in the halves of its room in turn.

    The scratch arrays (best to first_slot) are those of the tails' buffer: row `room` on is this segment's.
    """
    row = tails + tl.program_id(0).to(tl.int64) * COLUMNS
    base = tl.load(row).to(tl.int64)
    first_step = tl.load(row + 1)
    end = tl.load(row + 2)
    room = tl.load(row + 3).to(tl.int64)
    raw_at = tl.load(row + 4).to(tl.int64)
    raw_tokens = tl.load(row + 5)
    start = tl.load(row + 6)
    half = tl.load(steps + 2 * first_step)
    from_x = x + base * D
    from_square = square + base
    from_scale = scale + base
    from_weight = weight + base
    best += room
    partner += room
    key += room
    rank += room
    count += room
    order += room
    target += room
    first_slot += room
    out = room
    for step in range(first_step, end):
        n = tl.load(steps + 2 * step)
        pairs = tl.load(steps + 2 * step + 1)
        final = tl.where(step == end - 1, start, -1)
        goes = tl.where(step == end - 1, -1, out)
        num_even = (n + 1) // 2
        for tile in range(0, tl.cdiv(num_even, EVENS)):
            match_tile(
                from_x, from_square, from_scale, best, partner, key, 0, n, tile, D, WIDE, SLICE, WARD, FAST,
                EVENS, ODDS,
            )  # fmt: skip
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(num_even, SEATS)):
            rank_tile(best, key, rank, 0, n, pairs, tile, NO_KEY, SEATS, KEYS)
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(num_even, SEATS)):
            count_tile(key, count, 0, n, tile, NO_KEY, SEATS)
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(num_even, SEATS)):
            place_tile(
                partner, key, rank, count, order, target, first_slot, 0, n, pairs, tile, NO_KEY, True,
                REFERENCE, SEATS, KEYS,
            )  # fmt: skip
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(n - pairs, GROUPS)):
            merge_tile(
                from_x, from_weight, order, first_slot, tail_x, tail_square, tail_scale, tail_weight, mass, 0,
                n, pairs, goes, final, tile, D, SLICE, WARD, GROUPS,
            )  # fmt: skip
        for first in range(0, raw_tokens, TOKENS):
            compose_tile(group, target, 0, raw_at, raw_tokens, final, first, TOKENS)
        tl.debug_barrier()
        from_x = tail_x + out * D
        from_square = tail_square + out
        from_scale = tail_scale + out
        from_weight = tail_weight + out
        out = 2 * room + half - out  # the other half
