"""The steps of a round of `plan` in Triton, each for a tile of a segment; `plan_rounds` runs them.

A round over n tokens, even and odd seats:
- *match*: each even seat's best odd seat, the odd ones going by in tiles; its key is (partner, seat).
- *rank*: how many even seats score better (on a tie the lower one); those from the r-th on lose their key.
- *place*: where a seat's token goes, and where the seat stands among all, ordered by that. Both follow from
  counting smaller keys, so nothing is sorted and nothing needs an atomic.
- *merge*: means of the placed seats, in seat order; the map from raw tokens is composed along.
"""

import triton
import triton.language as tl


@triton.jit
def is_weighted(scale, WARD: tl.constexpr):
    """Which tokens count for something, by what `scale_of` says of them."""
    return scale < float("inf") if WARD else scale > 0


@triton.jit
def scale_of(square, weight, WARD: tl.constexpr):
    """What a score needs of a token beside its metric and the square of that: 1 / weight, or 1 / length."""
    if WARD:
        scale = tl.where(weight > 0, 1.0 / tl.where(weight > 0, weight, 1.0), float("inf"))
    else:
        scale = tl.where(square > 0, 1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
    return scale


@triton.jit
def power_of_two(square, UP: tl.constexpr):
    """The power of two at or below a length, from its square; or one over it. 1 for a zero vector."""
    k = ((square.to(tl.int32, bitcast=True) >> 23) - 127) >> 1
    k = tl.where(square > 0, tl.maximum(k, -63), 0)
    bits = (127 + k) << 23 if UP else (127 - k) << 23
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def products(a, b, FAST: tl.constexpr):
    """a @ b of float32 rows and columns whose lengths are about 1.

    Exact: each factor as two float16 of 11 bits, three products on the tensor cores; half the work of three
    in tf32, and as near to float32. FAST: 2 bfloat16; 1 the same for the interpreter, which has none.
    """
    if FAST == 2:
        dots = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    elif FAST == 1:
        dots = tl.dot(a.to(tl.bfloat16).to(tl.float32), b.to(tl.bfloat16).to(tl.float32))
    else:
        a_high = a.to(tl.float16)
        b_high = b.to(tl.float16)
        a_low = (a - a_high.to(tl.float32)).to(tl.float16)
        b_low = (b - b_high.to(tl.float32)).to(tl.float16)
        dots = tl.dot(a_low, b_high)
        dots = tl.dot(a_high, b_low, dots)
        dots = tl.dot(a_high, b_high, dots)
    return dots


@triton.jit
def match_tile(
    x, square, scale, best, partner, key, base, n, tile, D: tl.constexpr,
    WIDE: tl.constexpr, SLICE: tl.constexpr, WARD: tl.constexpr, FAST: tl.constexpr, EVENS: tl.constexpr,
    ODDS: tl.constexpr,
):  # fmt: skip
    """best, partner and key of EVENS even seats; rows of weight 0 count as zero vectors."""
    num_even = (n + 1) // 2
    num_odd = n // 2
    even = tile * EVENS + tl.arange(0, EVENS)
    live = even < num_even
    row = base + 2 * even
    square_a = tl.load(square + row, mask=live, other=0.0)
    scale_a = tl.load(scale + row, mask=live, other=1.0)
    column = tl.arange(0, SLICE)
    filled = live & is_weighted(scale_a, WARD)
    lift_a = power_of_two(square_a, False) if WARD else scale_a  # to lengths of about 1; or of 1
    if WIDE == SLICE:
        a = tl.load(
            x + row[:, None] * D + column[None, :], mask=filled[:, None] & (column < D)[None, :], other=0.0
        )
        a = a * lift_a[:, None]
    top = tl.full([EVENS], float("-inf"), tl.float32)
    at = tl.zeros([EVENS], tl.int32)
    for first in range(0, num_odd, ODDS):
        odd = first + tl.arange(0, ODDS)
        real = odd < num_odd
        other = base + 2 * odd + 1
        square_b = tl.load(square + other, mask=real, other=0.0)
        scale_b = tl.load(scale + other, mask=real, other=1.0)
        counts = real & is_weighted(scale_b, WARD)
        lift_b = power_of_two(square_b, False)
        lower_b = power_of_two(square_b, True)
        if WIDE == SLICE:
            b = tl.load(
                x + other[None, :] * D + column[:, None],
                mask=counts[None, :] & (column < D)[:, None], other=0.0,
            )  # fmt: skip
            dots = products(a, b * lift_b[None, :], FAST)
        else:
            dots = tl.zeros([EVENS, ODDS], tl.float32)
            for slice in range(0, D, SLICE):
                inside = slice + column < D
                a = tl.load(
                    x + row[:, None] * D + (slice + column)[None, :],
                    mask=filled[:, None] & inside[None, :], other=0.0,
                )  # fmt: skip
                b = tl.load(
                    x + other[None, :] * D + (slice + column)[:, None],
                    mask=counts[None, :] & inside[:, None], other=0.0,
                )  # fmt: skip
                dots += products(a * lift_a[:, None], b * lift_b[None, :], FAST)
        if WARD:
            twice = 2 * power_of_two(square_a, True)
            score = dots * lower_b[None, :] * twice[:, None] - square_a[:, None] - square_b[None, :]
            score = score / (scale_a[:, None] + scale_b[None, :])
            score = tl.where(real[None, :], score, float("-inf"))
        else:
            level = tl.where(real, tl.where(scale_b == 0, -1.0, 0.0), float("-inf"))
            score = dots * (lower_b * scale_b)[None, :] + level[None, :]
        value, index = tl.max(score, axis=1, return_indices=True)
        better = value > top  # not >=: ties go to the lowest seat
        at = tl.where(better, first + index, at)
        top = tl.where(better, value, top)
    if not WARD:  # a zero vector is as far from all
        top = tl.where(scale_a == 0, -1.0, top)
        at = tl.where(scale_a == 0, 0, at)
    tl.store(best + base + even, top, mask=live)
    tl.store(partner + base + even, at, mask=live)
    wide_at = at.to(key.dtype.element_ty)
    tl.store(key + base + even, wide_at * num_even + even, mask=live)


@triton.jit
def rank_tile(
    best, key, rank, base, n, pairs, tile, NO_KEY: tl.constexpr, SEATS: tl.constexpr, KEYS: tl.constexpr
):
    """rank of SEATS even seats by falling score; those from the `pairs`-th on get NO_KEY."""
    num_even = (n + 1) // 2
    even = tile * SEATS + tl.arange(0, SEATS)
    live = even < num_even
    mine = tl.load(best + base + even, mask=live, other=0.0)
    above = tl.zeros([SEATS, KEYS], tl.int32)
    for first in range(0, num_even, KEYS):
        other = first + tl.arange(0, KEYS)
        theirs = tl.load(best + base + other, mask=other < num_even, other=float("-inf"))
        before = (theirs[None, :] > mine[:, None]) | (
            (theirs[None, :] == mine[:, None]) & (other[None, :] < even[:, None])
        )
        above += before.to(tl.int32)
    above = tl.sum(above, axis=1)
    tl.store(rank + base + even, above, mask=live)
    tl.store(key + base + even, tl.full([SEATS], NO_KEY, key.dtype.element_ty), mask=live & (above >= pairs))


@triton.jit
def count_tile(key, count, base, n, tile, NO_KEY: tl.constexpr, SEATS: tl.constexpr):
    """count[e] = even seats up to e that have a key, of SEATS even seats."""
    num_even = (n + 1) // 2
    lane = tl.arange(0, SEATS)
    before = tl.zeros([SEATS], tl.int32)
    for first in range(0, tile * SEATS, SEATS):
        before += (tl.load(key + base + first + lane) < NO_KEY).to(tl.int32)
    seat = tile * SEATS + lane
    live = seat < num_even
    mine = (tl.load(key + base + seat, mask=live, other=NO_KEY) < NO_KEY).to(tl.int32)
    tl.store(count + base + seat, tl.sum(before, axis=0) + tl.cumsum(mine, axis=0), mask=live)


@triton.jit
def place_tile(
    partner, key, rank, count, order, target, first_slot, base, n, pairs, tile, NO_KEY: tl.constexpr,
    RANKED: tl.constexpr, REFERENCE: tl.constexpr, SEATS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """target (where a seat's token goes), order (seats by that) and first_slot (where each goal's seats are
    first), of SEATS even seats and the odd seats after them."""
    num_even = (n + 1) // 2
    num_odd = n // 2
    seat = tile * SEATS + tl.arange(0, SEATS)
    even = seat < num_even
    odd = seat < num_odd
    wide = seat.to(key.dtype.element_ty)
    join = tl.load(partner + base + seat, mask=even, other=0)
    mine = tl.load(key + base + seat, mask=even, other=NO_KEY)
    joins = even & (mine < NO_KEY)
    bound = tl.where(joins, mine, wide * num_even)  # a seat alone comes after all that join lower odd seats
    own = wide * num_even
    below = tl.zeros([SEATS, KEYS], tl.int32)  # keys less than the even seat's
    below_odd = tl.zeros([SEATS, KEYS], tl.int32)  # keys that join lower odd seats
    upto_odd = tl.zeros([SEATS, KEYS], tl.int32)  # and those that join this one from a lower seat
    for first in range(0, num_even, KEYS):
        number = first + tl.arange(0, KEYS)
        others = tl.load(key + base + number, mask=number < num_even, other=NO_KEY)
        below += (others[None, :] < bound[:, None]).to(tl.int32)
        below_odd += (others[None, :] < own[:, None]).to(tl.int32)
        upto_odd += (others[None, :] <= (own + wide)[:, None]).to(tl.int32)
    below = tl.sum(below, axis=1)
    below_odd = tl.sum(below_odd, axis=1)
    upto_odd = tl.sum(upto_odd, axis=1)
    if REFERENCE:  # those left alone by falling score, then the odd seats
        left = num_even - pairs
        place = tl.load(rank + base + seat, mask=even, other=0) if RANKED else seat
        goal_odd = left + seat
        goal_even = tl.where(joins, left + join, place - pairs)
        slot_even = tl.where(joins, left + join + below + (join < seat).to(tl.int32), goal_even)
        slot_odd = left + seat + upto_odd
        first_odd = left + seat + below_odd
    else:
        if RANKED:
            count_here = tl.load(count + base + seat, mask=even, other=0)
            count_join = tl.load(count + base + join, mask=joins, other=0)
        else:  # all of them merge
            count_here = seat + 1
            count_join = join + 1
        goal_odd = 2 * seat + 1 - count_here
        goal_even = tl.where(joins, 2 * join + 1 - count_join, 2 * seat - count_here)
        slot_even = goal_even + below + tl.where(joins, (join < seat).to(tl.int32), 0)
        slot_odd = goal_odd + upto_odd
        first_odd = goal_odd + below_odd
    tl.store(target + base + 2 * seat, goal_even, mask=even)
    tl.store(target + base + 2 * seat + 1, goal_odd, mask=odd)
    tl.store(order + base + slot_even, 2 * seat, mask=even)
    tl.store(order + base + slot_odd, 2 * seat + 1, mask=odd)
    tl.store(first_slot + base + goal_even, slot_even, mask=even & (mine >= NO_KEY))
    tl.store(first_slot + base + goal_odd, first_odd, mask=odd)


@triton.jit
def merge_tile(
    x, weight, order, first_slot, out_x, out_square, out_scale, out_weight, mass, base, n, pairs, out, final,
    tile, D: tl.constexpr, SLICE: tl.constexpr, WARD: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """State of GROUPS groups, to row `out` on unless that is < 0; masses to mass[final] on unless that is."""
    left = n - pairs
    group = tile * GROUPS + tl.arange(0, GROUPS)
    live = group < left
    start = tl.load(first_slot + base + group, mask=live, other=0)
    end = tl.load(first_slot + base + group + 1, mask=group + 1 < left, other=n)
    num = tl.where(live, end - start, 0)
    largest = tl.max(num, axis=0)
    total = tl.zeros([GROUPS], tl.float32)
    for j in range(0, largest):
        seat = tl.load(order + base + start + j, mask=j < num, other=0)
        total += tl.load(weight + base + seat, mask=j < num, other=0.0)
    if final >= 0:
        tl.store(mass + final + group, total, mask=live)
    if out >= 0:
        inverse = tl.where(total > 0, tl.div_rn(1.0, tl.where(total > 0, total, 1.0)), 0.0)
        square = tl.zeros([GROUPS], tl.float32)
        column = tl.arange(0, SLICE)
        for slice in range(0, D, SLICE):
            inside = slice + column < D
            acc = tl.zeros([GROUPS, SLICE], tl.float32)
            for j in range(0, largest):
                seat = tl.load(order + base + start + j, mask=j < num, other=0)
                part = tl.load(weight + base + seat, mask=j < num, other=0.0)
                share = tl.where((part == total) & (part > 0), 1.0, inverse * part)
                rows = tl.load(
                    x + (base + seat)[:, None] * D + (slice + column)[None, :],
                    mask=((j < num) & (part > 0))[:, None] & inside[None, :], other=0.0,
                )  # fmt: skip
                acc += share[:, None] * rows
            square += tl.sum(acc * acc, axis=1)
            tl.store(
                out_x + (out + group)[:, None] * D + (slice + column)[None, :], acc,
                mask=live[:, None] & inside[None, :],
            )  # fmt: skip
        tl.store(out_square + out + group, square, mask=live)
        tl.store(out_scale + out + group, scale_of(square, total, WARD), mask=live)
        tl.store(out_weight + out + group, total, mask=live)


@triton.jit
def compose_tile(group, target, base, raw_at, raw_tokens, final, first, TOKENS: tl.constexpr):
    """Raw tokens `first` on of a segment follow their group to its goal; in the last round to its number."""
    token = first + tl.arange(0, TOKENS)
    live = token < raw_tokens
    before = tl.load(group + raw_at + token, mask=live, other=0)
    goal = tl.load(target + base + before, mask=live, other=0) + tl.maximum(final, 0)
    tl.store(group + raw_at + token, goal, mask=live)
